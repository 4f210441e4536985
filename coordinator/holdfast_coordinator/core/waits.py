"""What waits for the log to be read, or for another leader's word, as values: who goes on, and with what.

Whoever goes on looks again at what there is then, for other events have come in between: a world, a save or a restore
that is gone by then is passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from holdfast_storage.failure import Failure

from .events import Rejoin


@dataclass(frozen=True, slots=True)
class SaveId:
    """One attempt to save, of all that a coordinator process has ever begun."""

    generation: str
    ordinal: int
    serial: int  # a world that went to another coordinator process and came back may begin the same save anew


@dataclass(frozen=True, slots=True)
class Form:
    """All tasks of a world have joined; it begins where the log ends."""

    generation: str


@dataclass(frozen=True, slots=True)
class Seek:
    """A save needs the lead."""

    save: SaveId


@dataclass(frozen=True, slots=True)
class Settle:
    """A world that another coordinator process may have led has calls that wait until its earlier saves are known."""

    generation: str


@dataclass(frozen=True, slots=True)
class Fail:
    """A save could not be written; perhaps since the run was taken over."""

    save: SaveId
    failure: Failure


@dataclass(frozen=True, slots=True)
class Look:
    """A restore has nothing to propose yet."""

    generation: str
    restore: int


@dataclass(frozen=True, slots=True)
class Confirm:
    """The second reader has spoken of what a restore proposes; somebody may go back by it."""

    generation: str
    restore: int
    prefix: str
    verdict: Literal["good", "damaged", "absent", "unreadable"]


@dataclass(frozen=True, slots=True)
class Show:
    """TensorFlow's `checkpoint` file should leave out what is condemned, if it is nobody else's to write."""


@dataclass(frozen=True, slots=True)
class Nobody:
    """Whoever has taken the run is met by the reading itself."""


ForTheLog = Form | Rejoin | Seek | Settle | Fail | Look | Confirm | Nobody
ForALeader = Seek | Show
