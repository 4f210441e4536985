"""Retention: `max_to_keep` and `keep_checkpoint_every_n_hours`, as in `tf.train.CheckpointManager`.

Retention is a function of the log's state; the last preserved time is in the log. Stock checkpoints are not ours: they
stay, and do not count. Damaged checkpoints do not count, are not kept for ever, and go when they would have gone.
Pinned ones stay and do not count, like those that are kept for ever. Leased ones count, and do not go for now.

Clocks can be wrong. The newest commit's time counts as the present. A later time in the log was written while a clock
was ahead, and counts as now, so a short error costs at most one interval. TensorFlow's manager does the same when it is
made.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from holdfast_storage.records import CheckpointRecord, LogState

from .messages import RetentionPolicy


@dataclass(frozen=True, slots=True)
class Sweep:
    """The prefixes to retire and to preserve, and the new last preserved time (seconds since the epoch)."""

    retire: tuple[str, ...] = ()
    preserve: tuple[str, ...] = ()
    last_preserved: float | None = None

    def __bool__(self) -> bool:
        return bool(self.retire or self.preserve)


def sweep(state: LogState, policy: RetentionPolicy, verified: str, leased: Collection[str] = ()) -> Sweep:
    """Return what may go now that the checkpoint `verified` has been committed and read back.

    leased: the prefixes of checkpoints that readers are at work on.

    A checkpoint goes if it has `max_to_keep` newer good ones and is older than `verified` in commit order: a newer one
    that nobody has read back replaces nothing.
    """
    newest = state.find(verified) if policy.max_to_keep else None
    if not policy.max_to_keep or newest is None or verified in state.damaged:
        return Sweep(last_preserved=state.last_preserved)
    condemned, pinned = set(state.damaged), {pin.prefix for pin in state.pinned}
    apart = condemned | pinned
    retire: list[str] = []
    preserve: list[str] = []
    last = None if state.last_preserved is None else min(state.last_preserved, newest.time)
    hours = policy.keep_every_n_hours
    newer = sum(_counts(c, apart) for c in state.checkpoints)
    for record in state.checkpoints:
        damaged = record.prefix in condemned
        newer -= _counts(record, apart)
        if record.prefix == verified or newer < policy.max_to_keep:
            break
        if record.stock or record.prefix in pinned or (record.preserved and not damaged):
            continue
        time = min(record.time, newest.time)
        if not damaged and hours and (last is None or time - hours * 3600.0 >= last):
            preserve.append(record.prefix)
            last = time
        elif record.prefix not in leased:
            retire.append(record.prefix)
    return Sweep(tuple(retire), tuple(preserve), last)


def _counts(record: CheckpointRecord, apart: Collection[str]) -> bool:
    """Return whether a checkpoint counts as one of the `max_to_keep`. apart: those that are damaged or pinned."""
    return not (record.stock or record.preserved or record.prefix in apart)
