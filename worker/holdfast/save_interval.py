"""How often to save by the clock: `CheckpointManager(..., save_every=...)`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

AT_FIRST = timedelta(minutes=10)
"""The interval while nothing is known."""


@dataclass(frozen=True, slots=True)
class YoungDaly:
    """The interval at which the least time is lost to saves and failures together, as `holdfast status` shows it."""

    def __repr__(self) -> str:
        return "holdfast.young_daly()"


def young_daly() -> YoungDaly:
    """Save as often as Young and Daly say, for `CheckpointManager(..., save_every=...)`.

    The interval follows from what saves cost this program and from how often jobs of this run have ended so far. Until
    both are known, it is ten minutes. While no job has ended yet, it is the shortest that is likely to be right, and
    grows with the time.
    """
    return YoungDaly()


def seconds(save_every: timedelta | YoungDaly | None) -> float:
    """Return the seconds between saves as far as the program says; 0: there are none by the clock."""
    if save_every is None:
        return 0.0
    return (AT_FIRST if isinstance(save_every, YoungDaly) else save_every).total_seconds()
