"""What a training program is told of a save: the coordinator's word, once the log bears it out."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast_storage import layout
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CoordinatorUnavailable, HoldfastError, SaveFailed, Superseded
from holdfast_storage.lag import Wait
from holdfast_storage.log import Log
from holdfast_storage.store.base import Store


@dataclass(frozen=True, slots=True)
class Claim:
    """That one save of this worker was committed, which the log of its run bears out or not."""

    store: Store
    generation: str
    member: tuple[Task, str]  # this worker, as the generation names it
    prefix: str
    step: int
    begun_at: int  # the log entry that stood when this worker began to write; -1: it has reported nothing

    def confirm(self) -> HoldfastError | None:
        """The coordinator says that the save was committed. Returns None if the log does."""
        if self._is_in_log(Wait()):
            return None
        return in_doubt(self.step, f"the coordinator says so, and the log of {self.store.url} does not, as seen here")

    def settle(self, error: Exception) -> HoldfastError | None:
        """No outcome will come: the log tells whether there was a commit, and only a commit is certain."""
        return None if self._is_in_log(Wait(0.0)) else in_doubt(self.step, error)

    def refuse(self, error: HoldfastError) -> HoldfastError | None:
        """The failure as the training program gets it: Superseded as it is, all else a SaveFailed with the step."""
        if isinstance(error, Superseded):
            # It may have come instead of the word that this save was committed, before the newer job took the run.
            return None if self._is_in_log(Wait()) else error
        return failed(self.step, error)

    def _is_in_log(self, wait: Wait) -> bool:
        """Whether the commit entry of this save is seen to stand.

        It is looked for from where the writing began, not in the last entry alone: a newer job may have retired the
        checkpoint since. Behind an entry of a newer generation it cannot come any more; that one is waited for, since
        this worker's mount may show it late.
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
    """A failure of a save, named by its step."""
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
    """The error of a save of which nobody tells whether it was committed."""
    return CoordinatorUnavailable(
        f"whether the save of step {step} was committed is not known: {error}. Should the coordinator have "
        "committed it, it appears in latest_checkpoint",
        phase="commit",
    )
