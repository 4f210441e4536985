"""One round in which a world agrees on what to restore.

Every worker reads and verifies the same candidate. Only when all have verified it may any of them apply it. A damaged
or absent candidate is passed over by all together, once the coordinator, as a second reader, agrees. If the coordinator
finds it good, or if somebody cannot read, the round ends with an error: nobody goes back from what was committed
because of one host.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from holdfast_storage.cluster import LISTED, Task, names
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.layout import tag_of
from holdfast_storage.records import CheckpointRecord, LogState

from .messages import Apply, Read, RequestId

Decision = Read | Apply | Failure

BAD = ("damaged", "absent")
"""The verdicts of a reader that finds a checkpoint bad: if it is right, nobody can restore it."""


@dataclass(slots=True)
class RestoreRound:
    """One restore call of one world."""

    ordinal: int
    target: str | None  # None if unknown: it was decided with another coordinator process
    members: tuple[Task, ...]
    deadline: float  # monotonic
    begun: float = 0.0  # monotonic
    fork_point: str = ""  # LogState.fork_point of the state that the candidates are from
    since: float = 0.0  # monotonic, when the log had all candidates: they were committed before
    looking: bool = False  # whether the log is being read for it
    seen: int = -1  # the newest log entry that a member sees
    seen_by: Task | None = None
    waiting: dict[RequestId, Task] = field(default_factory=dict)
    verdicts: dict[Task, tuple[str, str]] = field(default_factory=dict)  # on the current candidate: verdict, reason
    second: str = ""  # the second reader's verdict on it, if a worker's is bad; empty if there is none yet
    lost: Collection[str] = ()  # prefixes of what is known to be damaged, or to need what is
    candidates: tuple[CheckpointRecord, ...] | None = None  # None: the log is being read
    passed_over: list[str] = field(default_factory=list)
    recalled: bool = False  # some member has applied what is proposed, so nothing else can come of it
    decision: Decision | None = None

    @property
    def is_open(self) -> bool:
        """Whether its decision is waited for. Who only recalls one has had it."""
        return self.decision is None and bool(self.waiting or not self.recalled)

    def must_end_within(self, seconds: float) -> None:
        """Take a member's deadline: nobody waits longer than the first of them to give up."""
        self.deadline = min(self.deadline, self.begun + seconds)

    def recall(self, task: Task, record: CheckpointRecord | None, fork_point: str) -> Decision | None:
        """Take it from a member that it has applied this, or gone on with nothing, by the decision of a process that is
        gone. That decision is known again once every other member says so, or finds it good: they all have before."""
        if not self.recalled:
            if not (self.candidates and record and self.current.prefix == record.prefix):
                self.verdicts.clear()
            self.passed_over.clear()
            self.recalled, self.second = True, ""
            self.candidates, self.fork_point = (record,) if record else (), fork_point
        if record is None:
            for other in self.waiting.values():
                self.verdicts[other] = ("good", "")
        return self.hear(task, "good", "")

    def propose(self, state: LogState | None, now: float) -> Decision | None:
        """Find the candidates, newest first. Return a decision if there is one already.

        If there is nothing to restore, all must agree on that, too, and calling is enough: a worker that goes on alone
        would train in a world in which somebody may be dead.
        """
        found = candidates(state, self.target or "")
        if isinstance(found, Failure):
            self.decision = found
            return found
        self.candidates, self.since = found, now
        self.fork_point = state.fork_point if state else ""
        if not found:
            for task in self.waiting.values():
                self.hear(task, "good", "")
        return self.decision

    def withdraw(self) -> None:
        """Drop what was proposed, since the log has moved on and must be read again."""
        self.candidates, self.second = None, ""
        self.verdicts.clear()
        self.passed_over.clear()

    @property
    def current(self) -> CheckpointRecord:
        assert self.candidates is not None
        return self.candidates[len(self.passed_over)]

    @property
    def doubted(self) -> tuple[Task, ...]:
        """The tasks that find the current candidate bad."""
        return self._who(*BAD)

    @property
    def missing(self) -> tuple[Task, ...]:
        return tuple(task for task in self.members if task not in self.verdicts)

    def hear(self, task: Task, verdict: str, reason: str) -> Decision | None:
        """Take one worker's verdict on the current candidate. Return the decision once all have reported.

        verdict: "good", "damaged", "absent" (a part is missing for longer than a mount may lag), "missing" (the storage
        answers and has no such checkpoint) or "unreadable".
        """
        self.verdicts[task] = (verdict, reason)
        return self._judge()

    def hear_second(self, verdict: str) -> Decision | None:
        """Take the coordinator's verdict: "good", "damaged", "absent" or "unreadable". Decide as `hear`."""
        self.second = verdict
        return self._judge()

    def _judge(self) -> Decision | None:
        if len(self.verdicts) < len(self.members):
            return None
        said = {each for each, _ in self.verdicts.values()}
        unable = self._who(*said - {"good", *BAD})
        if said == {"good"}:
            self.decision = Apply(self.current if self.candidates else None, tuple(self.passed_over), self.fork_point)
        elif said == {"missing"}:
            self.decision = Failure(
                Kind.INVALID_REQUEST,
                f"there is no checkpoint {self.current.prefix} ({self.verdicts[self.members[0]][1]})",
                phase="restore",
                object=self.current.prefix,
            )
        elif unable:
            self.decision = self._unreadable(
                unable,
                f"{names(unable)} cannot read {self.current.prefix} ({self._reasons(unable)}); nothing was restored "
                "anywhere. Check that every worker sees the same directory with the same rights",
            )
        elif self.second in BAD:
            return self._pass_over(self._reasons(self.doubted))
        elif self.second:
            self.decision = self._unreadable(self.doubted, self._alone())
        return self.decision

    def _unreadable(self, tasks: tuple[Task, ...], message: str) -> Failure:
        return Failure(Kind.STORAGE, message, phase="restore", tasks=tasks, object=self.current.prefix)

    def _alone(self) -> str:
        """Return a sentence: some workers find the candidate bad, and the coordinator does not."""
        who, reasons, prefix = names(self.doubted), self._reasons(self.doubted), self.current.prefix
        if self.second == "good":
            return (
                f"{who} cannot read {prefix} as it was committed ({reasons}), and the coordinator can: it is good. "
                "Nothing was restored anywhere. Look at the mount, the memory and the network of that host, and start "
                "again"
            )
        return (
            f"{who} cannot restore {prefix} ({reasons}), and the coordinator cannot read it to confirm that: nothing "
            "was restored anywhere. See the coordinator's log, and check its storage"
        )

    def _who(self, *verdicts: str) -> tuple[Task, ...]:
        return tuple(task for task in self.members if self.verdicts.get(task, ("", ""))[0] in verdicts)

    def _reasons(self, tasks: tuple[Task, ...]) -> str:
        return "; ".join(f"{task}: {self.verdicts[task][1]}" for task in tasks[:LISTED])

    def _pass_over(self, why: str) -> Decision:
        assert self.candidates is not None
        bad = self.current.prefix
        self.passed_over.append(f"{bad}: {why}")
        while len(self.passed_over) < len(self.candidates) and self.current.base and self.current.prefix in self.lost:
            self.passed_over.append(f"{self.current.prefix}: needs what {bad} needs")
        self.verdicts.clear()
        self.second = ""
        if len(self.passed_over) < len(self.candidates):
            return Read(self.current)
        self.decision = Failure(
            Kind.CHECKPOINT_DAMAGED,
            f"checkpoints exist but none of them can be restored: {' | '.join(self.passed_over)}",
            phase="restore",
            object=self.candidates[0].prefix,
        )
        return self.decision

    def reason(self) -> str:
        """What the round is waiting for, in one sentence."""
        if self.candidates is None:
            late = f"waiting for the coordinator's storage to show log entry {self.seen}, which {self.seen_by} sees"
            return late if self.seen_by else "reading the log"
        if self.missing:
            return f"waiting for {names(self.missing)} to read and verify"
        return f"waiting for the coordinator to read {self.current.prefix}, which {names(self.doubted)} cannot restore"

    def timed_out(self) -> Failure:
        if self.candidates is None:
            message = "the coordinator could not read the log of the run in time: its storage does not answer"
            if self.seen_by:
                message = (
                    f"the storage of the coordinator has not shown log entry {self.seen} in time, which {self.seen_by} "
                    "sees. Check that both have the same directory mounted"
                )
            return Failure(Kind.COORDINATOR_UNAVAILABLE, message, phase="restore")
        if not self.missing:
            return self._unreadable(
                self.doubted,
                f"{names(self.doubted)} cannot restore {self.current.prefix} ({self._reasons(self.doubted)}), and the "
                "coordinator has not read it in time to confirm that: nothing was restored anywhere",
            )
        return Failure(
            Kind.COORDINATOR_UNAVAILABLE,
            f"not all workers took part in the restore in time: waiting for {names(self.missing)}",
            phase="restore",
            tasks=self.missing,
        )


def candidates(state: LogState | None, target: str) -> tuple[CheckpointRecord, ...] | Failure:
    """Return what to try, best first. With a target, return only that one.

    A target is a step (the latest live checkpoint of it), a prefix below the run directory, `@` and a tag, or the path
    of a checkpoint elsewhere.
    """
    live = state.checkpoints if state else ()
    if state and state.closed:
        return Failure(Kind.INVALID_REQUEST, state.closed, phase="restore")
    if not target:
        restorable = state.restorable if state else ()
        if live and not restorable:
            return Failure(
                Kind.CHECKPOINT_DAMAGED,
                f"all {len(live)} checkpoints of the run are marked as damaged",
                phase="restore",
                object=live[-1].prefix,
            )
        return tuple(reversed(restorable))
    for record in reversed(live):
        if target in (record.prefix, str(record.step)):
            return (record,)
    if target.isdigit():
        steps = ", ".join(str(c.step) for c in live) or "none"
        return Failure(
            Kind.INVALID_REQUEST,
            f"the run has no checkpoint of step {target}; it has: {steps}",
            phase="restore",
            object=target,
        )
    if tag := tag_of(target):
        found = state.tagged(tag) if state else None
        if found:
            return (found,)
        tags = ", ".join(sorted(tag.name for tag in state.tags)) if state else ""
        return Failure(
            Kind.INVALID_REQUEST,
            f"no checkpoint of the run is tagged {tag}; there are: {tags or 'no tags'}",
            phase="restore",
            object=tag,
        )
    return (CheckpointRecord(prefix=target, step=-1, time=0.0, stock=True),)
