"""One attempt to save, from the first ballot to an outcome that nobody can change."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from holdfast_storage.cluster import Task, names
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.layout import prefix
from holdfast_storage.records import Entry

from .messages import Ballot, Go, RequestId, SaveReport
from .rules import Policy
from .waits import SaveId


class Phase(Enum):
    """The phases of a save. `TRANSITIONS` lists everything that may follow each."""

    VOTING = "vote"
    LEADING = "lead"
    WRITING = "write"
    FINALIZING = "finalize"
    COMMITTING = "commit"
    ABORTING = "abort"
    PUBLISHING = "publish"
    COMMITTED = "committed"
    FAILED = "failed"


TRANSITIONS: dict[Phase, tuple[Phase, ...]] = {
    # All ballots are in and agree; a coordinator that was restarted learns from a report that they did.
    Phase.VOTING: (Phase.LEADING, Phase.WRITING, Phase.FAILED),
    # Taking the lead, once for a generation. A commit entry of this save, made by another coordinator, may be found.
    Phase.LEADING: (Phase.WRITING, Phase.COMMITTED, Phase.FAILED),
    # The workers write; all reports are in.
    Phase.WRITING: (Phase.FINALIZING, Phase.FAILED),
    # Index, manifest, every object seen.
    Phase.FINALIZING: (Phase.COMMITTING, Phase.FAILED),
    # The commit entry is being created: from here only the log decides.
    Phase.COMMITTING: (Phase.PUBLISHING, Phase.ABORTING, Phase.FAILED),
    # The outcome of its creation is not known in time: an abort entry should take its place.
    Phase.ABORTING: (Phase.PUBLISHING, Phase.FAILED),
    # Committed; TensorFlow's `checkpoint` file is being written before anybody is told.
    Phase.PUBLISHING: (Phase.COMMITTED,),
    Phase.COMMITTED: (),
    Phase.FAILED: (),
}


def diagram() -> str:
    """Return the table as a Mermaid state diagram, for the documentation."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.VOTING.value}"]
    for phase, following in TRANSITIONS.items():
        lines += [f"    {phase.value} --> {after.value}" for after in following]
        if not following:
            lines.append(f"    {phase.value} --> [*]")
    return "\n".join(lines) + "\n"


@dataclass(slots=True)
class SaveAttempt:
    """One save of one world."""

    id: SaveId
    step: int
    checkpoint_name: str
    members: tuple[Task, ...]
    deadline: float  # monotonic
    phase: Phase = Phase.VOTING
    begun: float = 0.0  # monotonic
    takeover: bool = False
    base: str = ""  # prefix of the checkpoint on which it is a delta; empty: it is full
    ballots: dict[Task, Ballot] = field(default_factory=dict)
    reports: dict[Task, SaveReport] = field(default_factory=dict)
    voters: dict[RequestId, Task] = field(default_factory=dict)  # calls that wait for the verdict
    reporters: dict[RequestId, Task] = field(default_factory=dict)  # calls that wait for the outcome
    go: Go | None = None
    went_back_to: str = ""  # what its world had restored before it, until the log says so
    entry: Entry | None = None  # the commit entry, once it has been built
    looked: float = 0.0  # monotonic, when somebody last checked whether its world still leads

    def advance(self, to: Phase) -> None:
        if to not in TRANSITIONS[self.phase]:
            raise AssertionError(f"a save cannot go from {self.phase.value} to {to.value}")
        self.phase = to

    @property
    def ordinal(self) -> int:
        return self.id.ordinal

    @property
    def prefix(self) -> str:
        return prefix(self.checkpoint_name, self.step, self.id.generation, self.ordinal)

    @property
    def chief(self) -> Task:
        """The member whose arguments count where those of all cannot: what may be deleted, and whether to take over."""
        return self.members[0]

    @property
    def retention(self) -> Policy:
        """What may go once this save is committed. All have reported then."""
        return self.reports[self.chief].retention

    @property
    def missing(self) -> tuple[Task, ...]:
        """The tasks whose part is missing."""
        done = self.ballots if self.phase is Phase.VOTING else self.reports
        return tuple(task for task in self.members if task not in done)

    @property
    def waits_for_workers(self) -> bool:
        return self.phase in (Phase.VOTING, Phase.WRITING)

    @property
    def all_voted(self) -> bool:
        return len(self.ballots) == len(self.members)

    @property
    def all_reported(self) -> bool:
        return len(self.reports) == len(self.members)

    def must_end_within(self, seconds: float) -> None:
        """Take a member's deadline: nobody waits longer than the first of them to give up."""
        self.deadline = min(self.deadline, self.begun + seconds)

    def contradicts(self, task: Task, ballot: Ballot) -> str:
        """Return how a ballot differs from what its member has said before; empty if it does not."""
        before = self.ballots.get(task)
        if before is None or replace(before, specs=()) == replace(ballot, specs=()):
            return ""
        return f"{task} votes twice in save {self.ordinal}, and not alike"

    def disagrees(self, task: Task, report: SaveReport) -> str:
        """Return how a report differs from what its member has reported before, or from what the save is about; empty
        if it does not."""
        before = self.reports.get(task)
        if before is not None:
            same = before == report and before.payload == report.payload
            return "" if same else f"{task} reports twice in save {self.ordinal}, and not alike"
        said = next(iter(self.reports), None)
        others = f"{said} has reported" if said else "the workers have voted for"
        ours, theirs = (self.checkpoint_name, self.step), (report.checkpoint_name, report.step)
        if ours != theirs:
            return f"{task} reports {theirs[0]}-{theirs[1]}, and {others} {ours[0]}-{ours[1]}"
        # The plan follows from the verdict. If it is not that of the base, all workers write everything instead.
        if report.base != self.base and (report.base or self.reports):
            return f"{task} reports a delta on {report.base or 'nothing'}, and {others} one on {self.base or 'nothing'}"
        if self.go is not None and report.worker_local != self.go.worker_local:
            return f"{task} reports other tensors as worker-local than {others}"
        return ""

    def take(self, task: Task, report: SaveReport) -> None:
        """Keep a report that does not disagree."""
        self.reports.setdefault(task, report)
        self.base = report.base

    @property
    def undecided(self) -> bool:
        """Whether the coordinator may still give up the save by itself, without asking the log."""
        return self.phase in (Phase.VOTING, Phase.LEADING, Phase.WRITING, Phase.FINALIZING)

    def reason(self) -> str:
        """What the save is waiting for, in one sentence."""
        match self.phase:
            case Phase.VOTING:
                return f"waiting for {names(self.missing)} to call save()"
            case Phase.WRITING:
                return f"waiting for {names(self.missing)} to write"
            case Phase.LEADING:
                return "taking the lead of the run"
            case Phase.FINALIZING:
                return "writing the index and the manifest"
            case Phase.PUBLISHING:
                return "writing TensorFlow's checkpoint file"
            case _:
                return "creating the commit entry in the log"

    def timed_out(self, last_seen: str = "") -> Failure:
        """Return the failure of a save whose deadline has passed. `last_seen` describes those for whom it waited."""
        who = self.missing if self.waits_for_workers else ()
        return Failure(
            Kind.SAVE_FAILED,
            f"the save of step {self.step} was not finished in time: {self.reason()}{last_seen and f' ({last_seen})'}",
            phase=self.phase.value,
            tasks=who,
        )
