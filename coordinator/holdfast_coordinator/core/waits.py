"""What waits for the log to be read, or for another leader's answer, as values: who goes on, and with what.

Whoever goes on looks at the state anew, since other events have come in between. A world, save or restore that is gone
by then is skipped.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast_storage.failure import Failure

from .events import Rejoin
from .messages import Verdict


@dataclass(frozen=True, slots=True)
class SaveId:
    """Identifies one attempt to save among all that a coordinator process has ever begun."""

    generation: str
    ordinal: int
    serial: int  # a world that went to another coordinator process and came back may begin the same save again


@dataclass(frozen=True, slots=True)
class Form:
    """All tasks of a world have joined, and it begins where the log ends."""

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
    """A save could not be written, perhaps because somebody else has taken the run."""

    save: SaveId
    failure: Failure


@dataclass(frozen=True, slots=True)
class Look:
    """A restore has nothing to propose yet."""

    generation: str
    restore: int


@dataclass(frozen=True, slots=True)
class Confirm:
    """The second reader has judged what a restore proposes, and somebody may go back."""

    generation: str
    restore: int
    prefix: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Show:
    """TensorFlow's `checkpoint` file should leave out what is condemned, unless it belongs to another job."""


@dataclass(frozen=True, slots=True)
class Nobody:
    """Whoever has taken the run is met by the reading itself."""


ForTheLog = Form | Rejoin | Seek | Settle | Fail | Look | Confirm | Nobody
ForALeader = Seek | Show
