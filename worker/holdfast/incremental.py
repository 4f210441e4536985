"""Saves of what has changed: `CheckpointManager(..., incremental=holdfast.Incremental(full_every=20))`."""

from __future__ import annotations

from typing import Any

from holdfast_storage.errors import InvalidRequest

MOST = 1_000
"""The most checkpoints of which one is full: a restore reads all from the full one on."""


class Incremental:
    """Save only the rows of large tables that have changed, and now and then everything.

    A tensor is saved by rows if it has at least two dimensions, at least 1,000 rows of at most 16 KiB, and at least a
    MiB: embeddings, and the slots that an optimizer has for them. All others are saved whole each time. The first save
    of a program is full, and so is each that follows a save that failed, a restore, or a change of what is saved.

    It takes 8 bytes of memory for each row of this worker's part of the tables, twice that while a save is in flight.

    It pays if a step leaves most rows as they are, as SGD, Adagrad and Ftrl do. An optimizer with moving averages,
    momentum or weight decay, such as Adam, updates at each step all rows that were ever looked up: then little is won,
    and a warning says so.

    Args:
        full_every: of so many checkpoints one is full. From 2 to 1,000. A restore reads all from the full one on, and
            these stay as long as the last of them is kept.

    Raises InvalidRequest for anything else. All workers must have the same.
    """

    __slots__ = ("full_every",)

    full_every: int

    def __init__(self, *, full_every: int) -> None:
        self.full_every = _whole(full_every)

    def __repr__(self) -> str:
        return f"holdfast.Incremental(full_every={self.full_every})"


def _whole(full_every: Any) -> int:
    """Return an integer, given as any kind of number: it may come from a configuration file."""
    is_number = hasattr(full_every, "__float__") and not isinstance(full_every, bool)
    if not is_number or not float(full_every).is_integer() or not 2 <= full_every <= MOST:
        raise InvalidRequest(
            f"full_every is {full_every!r}: it must be a whole number from 2 to {MOST:,}. To save everything each "
            "time, leave incremental out",
            object="full_every",
        )
    return int(full_every)
