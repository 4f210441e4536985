"""The outcome of a save as the training program gets it: the coordinator's answer, once the log confirms it."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast_storage import layout
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CoordinatorUnavailable, HoldfastError, SaveFailed, Superseded
from holdfast_storage.lag import Wait
from holdfast_storage.log.log import Log
from holdfast_storage.store.base import Store


@dataclass(frozen=True, slots=True)
class Claim:
    """The claim that one save of this worker was committed, which the run's log confirms or not."""

    store: Store
    generation: str
    member: tuple[Task, str]  # this worker, as the generation names it
    prefix: str
    step: int
    begun_at: int  # the log entry that stood when this worker began to write; -1: it has reported nothing

    def confirm(self) -> HoldfastError | None:
        """Check the coordinator's answer that the save was committed. Return None if the log confirms it."""
        if self._is_in_log(Wait()):
            return None
        return in_doubt(self.step, f"the coordinator says so, and the log of {self.store.url} does not, as seen here")

    def settle(self, error: Exception) -> HoldfastError | None:
        """Look into the log because no answer will come. Only a commit is certain: then return None."""
        return None if self._is_in_log(Wait(0.0)) else in_doubt(self.step, error)

    def refuse(self, error: HoldfastError) -> HoldfastError | None:
        """Return the error for the training program: Superseded as it is, others as a SaveFailed with the step."""
        if isinstance(error, Superseded):
            # It may replace the answer that this save was committed, before the newer job took the run.
            return None if self._is_in_log(Wait()) else error
        return failed(self.step, error)

    def _is_in_log(self, wait: Wait) -> bool:
        """Return whether the commit entry of this save stands.

        The search covers all entries since the writing began, not only the last one: a newer job may have retired the
        checkpoint since. After an entry of a newer generation there can be no such commit. The search waits for
        entries, since this worker's mount may show them late.
        """
        log, number = Log(self.store), self.begun_at + 1
        while number > 0:
            try:
                entry = log.read(number)
            except HoldfastError:
                entry = None
            if entry is not None:
                state, number = entry.state, number + 1
                ours = state.generation if state.generation and state.generation.id == self.generation else None
                if state.find(self.prefix) is not None:
                    return ours is None or self.member in ours.members
                if ours is None:
                    return False
            elif not wait.again(f"{self.store.url}/{layout.log_entry(number)} is not there"):
                return False
        return False


def failed(step: int, error: HoldfastError) -> SaveFailed:
    """Return a save's failure, which names the step."""
    kind = type(error) if isinstance(error, SaveFailed) else SaveFailed
    named = kind(
        f"the save of step {step} failed and nothing of it is visible: {error}",
        workers=error.workers,
        phase=error.phase,
        object=error.object,
    )
    named.__cause__ = None if type(error) is SaveFailed else error
    return named


def in_doubt(step: int, error: object) -> CoordinatorUnavailable:
    """Return the error for a save whose outcome nobody knows."""
    return CoordinatorUnavailable(
        f"it is not known whether the save of step {step} was committed: {error}. If it was, the "
        "next restore finds it, and `holdfast ls` lists it",
        phase="commit",
    )
