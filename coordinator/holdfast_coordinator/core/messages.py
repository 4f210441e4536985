"""The values of which the core's events and effects consist."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from holdfast_storage.cluster import Task
from holdfast_storage.decision import Decision
from holdfast_storage.failure import Failure
from holdfast_storage.records import CheckpointRecord

from .rules import Policy

RequestId = int

Verdict = Literal["good", "damaged", "absent", "unreadable"]
"""What a reader finds a checkpoint, or objects of one."""


@dataclass(frozen=True, slots=True)
class Now:
    """Two clocks: monotonic seconds for deadlines, and wall seconds since the epoch for the log."""

    monotonic: float
    wall: float


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller: one incarnation of one task of one generation."""

    generation: str
    task: Task
    incarnation: str

    @property
    def process(self) -> str:
        """The caller's process. An incarnation is `process.n`, its n-th manager."""
        return process_of(self.incarnation)


def process_of(incarnation: str) -> str:
    return incarnation.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    key: str
    dtype: int  # as in TensorFlow's DataType
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ballot:
    """One worker's description of its state before a byte of a save is written."""

    step: int
    checkpoint_name: str
    spec_digest: bytes
    crcs: bytes  # little-endian fixed32 CRC32C of each tensor, in key order
    guarded: bytes  # a byte per tensor, in key order: 1 = must be equal on all workers
    on_divergence: str = "refuse"
    takeover: bool = False
    timeout: float = 600.0
    specs: tuple[TensorSpec, ...] = ()
    base: str = ""  # prefix of the last commit, on which the save is a delta; empty: it is full


@dataclass(frozen=True, slots=True)
class Divergence:
    """A tensor, by its position in key order, and the workers whose value differs."""

    position: int
    tasks: tuple[Task, ...] = ()  # empty if it was not examined, see vote.EXAMINED


@dataclass(frozen=True, slots=True)
class Go:
    """The vote has passed."""

    worker_local: tuple[int, ...] = ()  # positions of the tensors that are worker-local
    warned: tuple[Divergence, ...] = ()  # differ and should not: the chief's values are saved
    log_entry: int = -1  # an entry that every worker on the same directory can see
    full: bool = False  # the base for which all have voted may not be readable: everything is to be written


@dataclass(frozen=True, slots=True)
class SaveReport:
    """What one worker has made durable. The core passes on `payload` (objects and index entries) unread."""

    step: int
    checkpoint_name: str
    worker_local: tuple[int, ...]
    payload: object = field(compare=False)
    timeout: float = 600.0
    retention: Policy = ()
    cost_before: float | None = None  # seconds for which the save call before this one has kept the program
    base: str = ""  # as in Ballot


@dataclass(frozen=True, slots=True)
class SaveOutcome:
    """The final result of a save."""

    ordinal: int
    committed: bool
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Joined:
    generation: str
    members: tuple[tuple[Task, str], ...]
    fork_point: str
    entries: int = field(default=0, compare=False)  # log entries that this coordinator has read


@dataclass(frozen=True, slots=True)
class Waiting:
    """The world is not complete: ask again."""

    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class SpecsWanted:
    """Vote again, with the tensors' specs: they differ somewhere."""


@dataclass(frozen=True, slots=True)
class Read:
    """Read and verify this candidate, then report."""

    record: CheckpointRecord


@dataclass(frozen=True, slots=True)
class Apply:
    """Apply this checkpoint, since every worker has verified it. None: there is nothing to restore."""

    record: CheckpointRecord | None
    passed_over: tuple[str, ...] = ()
    fork_point: str = field(default="", compare=False)  # as in Joined, from now on


@dataclass(frozen=True, slots=True)
class UpkeepOver:
    pass


@dataclass(frozen=True, slots=True)
class Agreed:
    """The decision on the request that an operator waits for."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class Left:
    pass


@dataclass(frozen=True, slots=True)
class Presence:
    """What is known about one worker."""

    task: Task
    incarnation: str
    connections: int = 0
    heard: float | None = None  # monotonic
    lost: float | None = None  # monotonic, since when its connection is gone
    phase: str = ""
    step: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    since: float | None = None  # monotonic, when it began this phase
    progressed: float | None = None  # monotonic, when its phase, step or bytes last changed

    @property
    def attached(self) -> bool:
        return self.connections > 0


Answer = Joined | Waiting | Go | SpecsWanted | SaveOutcome | Read | Apply | UpkeepOver | Agreed | Left
