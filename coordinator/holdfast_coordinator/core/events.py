"""The events that the machine takes: calls of workers, results of effects, the clock."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast_storage.cluster import Cluster, Task
from holdfast_storage.decision import Decision
from holdfast_storage.failure import Failure
from holdfast_storage.records import Entry, LogState

from .agreement import NOTHING, Word
from .dealing import StoredObject
from .messages import Ballot, Caller, RequestId, SaveReport, Verdict

# -- calls: each is answered once by an Answer or a Refuse with the same request id --


@dataclass(frozen=True, slots=True)
class Join:
    request: RequestId
    task: Task
    incarnation: str
    cluster: Cluster
    fresh_generation: str  # a random id, used if this join completes a world
    timeout: float  # seconds for which the worker still waits


@dataclass(frozen=True, slots=True)
class Rejoin:
    """A worker of a formed world meets a coordinator that does not know it: a restarted one."""

    request: RequestId
    caller: Caller
    cluster: Cluster
    members: tuple[tuple[Task, str], ...]  # from the chief; the others know only themselves
    fork_point: str  # as in Joined, or in Apply since
    restored: str = ""  # prefix of the checkpoint that was applied last
    restores: int = 0  # ordinal of the restore call that this was


@dataclass(frozen=True, slots=True)
class Vote:
    request: RequestId
    caller: Caller
    ordinal: int
    ballot: Ballot


@dataclass(frozen=True, slots=True)
class Reported:
    request: RequestId
    caller: Caller
    ordinal: int
    report: SaveReport


@dataclass(frozen=True, slots=True)
class GaveUp:
    """A worker cannot do its part of a save."""

    request: RequestId
    caller: Caller
    ordinal: int
    failure: Failure


@dataclass(frozen=True, slots=True)
class Restore:
    request: RequestId
    caller: Caller
    ordinal: int
    target: str  # empty: the newest
    prefix: str  # the candidate that the verdict is about; empty: none yet
    verdict: str  # "good", "damaged", "absent", "missing" or "unreadable"
    reason: str
    timeout: float
    entries: int = 0  # log entries that this worker sees


@dataclass(frozen=True, slots=True)
class AwaitUpkeep:
    request: RequestId
    caller: Caller


@dataclass(frozen=True, slots=True)
class Leave:
    request: RequestId
    caller: Caller
    wait_for_others: float  # seconds


@dataclass(frozen=True, slots=True)
class AskSave:
    """An operator wants all workers to save, at one boundary of their training loops."""

    request: RequestId
    timeout: float  # seconds for which the answer is waited for


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The caller of a request has gone away or will ask again."""

    request: RequestId


# -- presence --


@dataclass(frozen=True, slots=True)
class Attached:
    caller: Caller


@dataclass(frozen=True, slots=True)
class Heartbeat:
    caller: Caller
    phase: str
    step: int
    bytes_done: int
    bytes_total: int
    word: Word = NOTHING
    save_every: float = 0.0  # seconds; 0: not by the clock
    by_advice: bool = False  # as often as Young and Daly say, once that is known


@dataclass(frozen=True, slots=True)
class Detached:
    caller: Caller


@dataclass(frozen=True, slots=True)
class Examined:
    """A worker has read what it was asked for. It says so as often as it likes, and nobody answers."""

    caller: Caller
    prefix: str
    good: tuple[str, ...]  # the objects that are
    verdict: Verdict  # on all of them
    reason: str = ""


# -- results of effects --


@dataclass(frozen=True, slots=True)
class LogRead:
    """The tail of the log was read. Without a log, this is the state that its first entry would record."""

    entry: Entry | None
    imported: LogState | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """The creation of an entry has ended: it is published, unless one of the others is set."""

    entry: Entry
    taken_by: Entry | None = None
    unknown: str = ""  # it may stand there, or may still appear
    refused: str = ""  # the storage refused this try for certain


@dataclass(frozen=True, slots=True)
class Probed:
    """Another leader has answered, with the living workers of its generation."""

    address: str
    living: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finalized:
    """Index and manifest are durable and every object was seen, or this has failed."""

    generation: str
    ordinal: int
    prefix: str = ""
    manifest_crc32c: int = 0
    metrics: tuple[tuple[str, float], ...] = ()  # the chief's finite numbers
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class StateFileWritten:
    """TensorFlow's `checkpoint` file was written after an entry, or could not be."""

    number: int
    newest: str  # the newest checkpoint that it names; empty if there is none, or it is not known


@dataclass(frozen=True, slots=True)
class ReadBack:
    """A live checkpoint was read back from storage."""

    prefix: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Listed:
    """The manifest of a live checkpoint was read: its objects, if it is good."""

    prefix: str
    verdict: Verdict
    objects: tuple[StoredObject, ...] = ()


@dataclass(frozen=True, slots=True)
class ObjectsRead:
    """Some objects of a live checkpoint were read back by this coordinator."""

    prefix: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class MetricsRead:
    """The finite numbers among the metrics of checkpoints, by prefix. Those that could not be read are not there."""

    found: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]


@dataclass(frozen=True, slots=True)
class OrphansFound:
    folders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decided:
    """What stands as the decision on a request of a generation; None if that is not known."""

    generation: str
    decision: Decision | None


@dataclass(frozen=True, slots=True)
class Deleted:
    folder: str
    done: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """A deadline may have passed."""


SaveCall = Vote | Reported | GaveUp

Event = (
    Join | Rejoin | Vote | Reported | GaveUp | Restore | AwaitUpkeep | Leave | AskSave | Cancelled
    | Attached | Heartbeat | Detached | Examined
    | LogRead | Appended | Probed | Finalized | StateFileWritten | ReadBack | Listed | ObjectsRead | MetricsRead
    | OrphansFound | Deleted | Decided | Tick
)  # fmt: skip
