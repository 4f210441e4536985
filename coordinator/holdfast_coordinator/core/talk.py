"""How a world agrees on what to restore.

Every worker reads and verifies the same candidate; only when all have it may any of them apply it. A damaged one is
passed over by all together. What cannot be read is not damaged: the talk ends with an error and nothing is condemned.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast_storage.records import CheckpointRecord, LogState, Task

from .values import Apply, Failure, Read, RequestId, names

Decision = Read | Apply | Failure


@dataclass(slots=True)
class RestoreTalk:
    """One restore call of one world."""

    ordinal: int
    target: str | None  # None: not known, it was decided with another coordinator process
    members: tuple[Task, ...]
    deadline: float  # monotonic
    begun: float = 0.0  # monotonic
    base: str = ""  # LogState.fork_point of the state that the candidates are from
    waiting: dict[RequestId, Task] = field(default_factory=dict)
    verdicts: dict[Task, tuple[str, str]] = field(default_factory=dict)  # on the current candidate: verdict, reason
    candidates: tuple[CheckpointRecord, ...] | None = None  # None: the log is being read
    passed_over: list[str] = field(default_factory=list)
    decision: Decision | None = None

    def propose(self, state: LogState | None) -> Decision | None:
        """Find the candidates, newest first. A decision, if there is none to be made.

        Where there is nothing to restore, whoever waits has said all that there is to say. All agree on that too: a
        worker that goes on alone trains in a world in which somebody may be dead.
        """
        found = candidates(state, self.target or "")
        if isinstance(found, Failure):
            self.decision = found
            return found
        self.candidates = found
        self.base = state.fork_point if state else ""
        if not found:
            for task in self.waiting.values():
                self.hear(task, "good", "")
        return self.decision

    @property
    def current(self) -> CheckpointRecord:
        assert self.candidates is not None
        return self.candidates[len(self.passed_over)]

    @property
    def missing(self) -> tuple[Task, ...]:
        return tuple(task for task in self.members if task not in self.verdicts)

    def hear(self, task: Task, verdict: str, reason: str) -> Decision | None:
        """Take one worker's verdict on the current candidate; the decision, once all have spoken.

        verdict: "good", "damaged", "missing" (its storage answers, and no such checkpoint is there) or "unreadable".
        """
        self.verdicts[task] = (verdict, reason)
        if len(self.verdicts) < len(self.members):
            return None
        said = {each for each, _ in self.verdicts.values()}
        if said == {"good"}:
            self.decision = Apply(self.current if self.candidates else None, tuple(self.passed_over), self.base)
        elif said <= {"good", "damaged"}:
            return self._pass_over(self._reasons(self._who("damaged")))
        elif said == {"missing"}:
            self.decision = Failure(
                "invalid_request",
                f"there is no checkpoint {self.current.prefix} ({self.verdicts[task][1]})",
                phase="restore",
                object=self.current.prefix,
            )
        else:
            unable = self._who(*said - {"good", "damaged"})
            self.decision = Failure(
                "storage",
                f"{names(unable)} cannot read {self.current.prefix} ({self._reasons(unable)}); nothing was restored "
                "anywhere. Check that every worker sees the same directory with the same rights",
                phase="restore",
                tasks=unable,
                object=self.current.prefix,
            )
        return self.decision

    def _who(self, *verdicts: str) -> tuple[Task, ...]:
        return tuple(task for task in self.members if self.verdicts[task][0] in verdicts)

    def _reasons(self, tasks: tuple[Task, ...]) -> str:
        return "; ".join(f"{task}: {self.verdicts[task][1]}" for task in tasks)

    def _pass_over(self, why: str) -> Decision:
        assert self.candidates is not None
        self.passed_over.append(f"{self.current.prefix}: {why}")
        self.verdicts.clear()
        if len(self.passed_over) < len(self.candidates):
            return Read(self.current)
        self.decision = Failure(
            "checkpoint_damaged",
            f"checkpoints exist but none of them can be restored: {' | '.join(self.passed_over)}",
            phase="restore",
            object=self.candidates[0].prefix,
        )
        return self.decision

    def timed_out(self) -> Failure:
        if self.candidates is None:
            message = "the coordinator could not read the log of the run in time: its storage does not answer"
            return Failure("coordinator_unavailable", message, phase="restore")
        return Failure(
            "coordinator_unavailable",
            f"not all workers took part in the restore in time: waiting for {names(self.missing)}",
            phase="restore",
            tasks=self.missing,
        )


def candidates(state: LogState | None, target: str) -> tuple[CheckpointRecord, ...] | Failure:
    """What to try, best first. With a target, that one alone.

    A target is a step (the latest live checkpoint of it), a prefix below the run directory, or the path of a
    checkpoint elsewhere.
    """
    live = state.checkpoints if state else ()
    if not target:
        restorable = state.restorable if state else ()
        if live and not restorable:
            return Failure(
                "checkpoint_damaged",
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
            "invalid_request",
            f"the run has no checkpoint of step {target}; it has: {steps}",
            phase="restore",
            object=target,
        )
    return (CheckpointRecord(prefix=target, step=-1, time=0.0, stock=True),)
