"""The effects that the machine asks for. If an effect has a result, it comes back as an event."""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast_storage.cluster import Cluster, Task
from holdfast_storage.decision import Decision
from holdfast_storage.failure import Failure
from holdfast_storage.records import CheckpointRecord, Entry, Generation, LogState

from .messages import Answer, Caller, RequestId, SaveReport


@dataclass(frozen=True, slots=True)
class Reply:
    request: RequestId
    answer: Answer


@dataclass(frozen=True, slots=True)
class Refuse:
    request: RequestId
    failure: Failure


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell an attending worker that a save was given up (`ordinal`), or that it is superseded (`ordinal` None)."""

    caller: Caller
    failure: Failure
    ordinal: int | None = None


@dataclass(frozen=True, slots=True)
class Post:
    """Tell an attending worker of a request for a save (its number), or of the decision on one."""

    caller: Caller
    what: int | Decision


@dataclass(frozen=True, slots=True)
class CreateDecision:
    """Create this decision exclusively. -> Decided"""

    generation: str
    decision: Decision


@dataclass(frozen=True, slots=True)
class ReadLog:
    """Read the tail of the log. -> LogRead"""


@dataclass(frozen=True, slots=True)
class Append:
    """Create this entry exclusively. -> Appended"""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask another leader whether the workers of the generation that it leads live. -> Probed"""

    address: str
    host: str
    generation: str


@dataclass(frozen=True, slots=True)
class Finalize:
    """Write index and manifest of what was reported and see every object at its size. -> Finalized"""

    generation: Generation
    cluster: Cluster
    ordinal: int
    step: int
    checkpoint_name: str
    reports: tuple[tuple[Task, SaveReport], ...]
    voted: bytes | None = None  # the CRC32C of each tensor, as the chief has voted; None: another process was told
    base: CheckpointRecord | None = None  # on which it is a delta; None: it is full


@dataclass(frozen=True, slots=True)
class WriteStateFile:
    """Write TensorFlow's `checkpoint` file, unless it was written after a later entry. -> StateFileWritten"""

    number: int  # number of the entry after which the run is in this state
    state: LogState


@dataclass(frozen=True, slots=True)
class ReadBackCheckpoint:
    """Read every byte of a live checkpoint and check it. -> ReadBack"""

    record: CheckpointRecord
    since: float = field(compare=False)  # monotonic: it was committed before, so what is absent may still be late


@dataclass(frozen=True, slots=True)
class ListObjects:
    """Read the manifest of a live checkpoint. -> Listed"""

    record: CheckpointRecord
    since: float = field(compare=False)  # as in ReadBackCheckpoint


@dataclass(frozen=True, slots=True)
class AskToRead:
    """Ask an attending worker to read some objects of a live checkpoint and check them. -> Examined, perhaps"""

    caller: Caller
    record: CheckpointRecord
    objects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReadObjects:
    """Read some objects of a live checkpoint and check them. -> ObjectsRead"""

    record: CheckpointRecord
    objects: tuple[str, ...]
    since: float = field(compare=False)  # as in ReadBackCheckpoint


@dataclass(frozen=True, slots=True)
class ReadMetrics:
    """Read what checkpoints were saved with. -> MetricsRead"""

    records: tuple[CheckpointRecord, ...]


@dataclass(frozen=True, slots=True)
class FindOrphans:
    """Look for folders of attempts that were never committed and never can be after an entry. -> OrphansFound"""

    entry: Entry


@dataclass(frozen=True, slots=True)
class DeleteFolder:
    """Delete a folder. -> Deleted"""

    folder: str


@dataclass(frozen=True, slots=True)
class Remark:
    """Log something that an operator should read."""

    text: str


Effect = (
    Reply
    | Refuse
    | Notify
    | Post
    | CreateDecision
    | ReadLog
    | Append
    | Probe
    | Finalize
    | WriteStateFile
    | ReadBackCheckpoint
    | ListObjects
    | AskToRead
    | ReadObjects
    | ReadMetrics
    | FindOrphans
    | DeleteFolder
    | Remark
)
