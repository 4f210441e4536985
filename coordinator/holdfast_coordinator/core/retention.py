"""What may go: `max_to_keep` and `keep_checkpoint_every_n_hours`, as `tf.train.CheckpointManager` means them.

A function of the log's state alone; the last preserved time lives in the log. Stock checkpoints are not ours and
stay, and neither count nor go. Damaged ones do not count, are not kept for ever, and go when they would have gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast_storage.records import LogState

from .values import RetentionPolicy


@dataclass(frozen=True, slots=True)
class Sweep:
    """Prefixes to retire and to preserve, and the new last preserved time (seconds since the epoch)."""

    retire: tuple[str, ...] = ()
    preserve: tuple[str, ...] = ()
    last_preserved: float | None = None

    def __bool__(self) -> bool:
        return bool(self.retire or self.preserve)


def sweep(state: LogState, policy: RetentionPolicy, verified: str) -> Sweep:
    """What may go now that the checkpoint `verified` has been committed and read back.

    What has `max_to_keep` newer good ones goes. Only what is older than `verified` in commit order: a newer one that
    nobody has read back replaces nothing.
    """
    good = [c for c in state.restorable if not c.stock and not c.preserved]
    if not policy.max_to_keep or verified not in (c.prefix for c in state.restorable):
        return Sweep(last_preserved=state.last_preserved)
    retire: list[str] = []
    preserve: list[str] = []
    last = state.last_preserved
    hours = policy.keep_every_n_hours
    newer = len(good)
    for record in state.checkpoints:
        damaged = record.prefix in state.damaged
        newer -= record in good
        if record.prefix == verified or newer < policy.max_to_keep:
            break
        if record.stock or (record.preserved and not damaged):
            continue
        if not damaged and hours and (last is None or record.time - hours * 3600.0 >= last):
            preserve.append(record.prefix)
            last = record.time
        else:
            retire.append(record.prefix)
    return Sweep(tuple(retire), tuple(preserve), last)
