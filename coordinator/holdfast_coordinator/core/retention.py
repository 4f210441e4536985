"""What may go: `max_to_keep` and `keep_checkpoint_every_n_hours`, as `tf.train.CheckpointManager` means them.

A function of the log's state alone; the last preserved time lives in the log. Stock checkpoints are not ours and
stay, and neither count nor go.
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

    Only what is older than `verified` in commit order goes: a newer one that nobody has read back replaces nothing.
    """
    if not policy.max_to_keep:
        return Sweep(last_preserved=state.last_preserved)
    ours = [c for c in state.checkpoints if not c.stock and not c.preserved]
    older = [c.prefix for c in state.checkpoints]
    older = older[: older.index(verified)] if verified in older else []
    retire: list[str] = []
    preserve: list[str] = []
    last = state.last_preserved
    for record in ours[: -policy.max_to_keep]:
        if record.prefix not in older:
            break
        hours = policy.keep_every_n_hours
        if hours and (last is None or record.time - hours * 3600.0 >= last):
            preserve.append(record.prefix)
            last = record.time
        else:
            retire.append(record.prefix)
    return Sweep(tuple(retire), tuple(preserve), last)
