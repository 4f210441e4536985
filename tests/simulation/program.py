"""One worker's training program: what it asks of its manager, how it takes signals, and what it has been promised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.manager import Manager
from holdfast.preemption import Preempted
from holdfast.requested import SETTLES_AFTER
from holdfast.saving.save import SLACK
from holdfast_storage.errors import CoordinatorUnavailable, HoldfastError, SaveFailed, Superseded
from simulation.fakes import Now
from simulation.processes import Process
from simulation.storage import URL
from simulation.world import LEFT_WITHIN, MARGIN, World

if TYPE_CHECKING:
    from simulation.training import Job

EVERY = 10  # steps between saves

OPTIONS = {"max_to_keep": 2, "save_timeout": 20.0, "join_timeout": 40.0}

FAILURES = 5
"""Times that a program calls `close` to hear of every save that has failed."""


class Interrupted(KeyboardInterrupt):
    """The exception that a signal handler raises, as Python's own does for Ctrl-C."""


class Program:
    """Restores, trains, saves and closes.

    Whatever `save` has returned must be committed when `close` returns, or its failure have been raised: also where a
    signal handler has raised in the middle of anything, or has saved, or another thread has closed the manager.

    Attributes:
        returned: prefix and step of each save that was begun, as far as the program was told.
    """

    def __init__(self, job: Job, world: World, process: Process, goal: int, closes_after: float) -> None:
        self.job = job
        self.world = world
        self.process = process
        self.model = process.model
        self.goal = goal
        self.options: dict[str, Any] = {**OPTIONS, **job.options}
        if "keep" in self.options:
            del self.options["max_to_keep"]
        self.manager: Manager | None = None
        self.returned: list[tuple[str, int]] = []
        self._closes_after = closes_after
        self._raised: list[BaseException] = []
        self._restored = False
        self._saving = self._closing = False
        self._ends = False

    def run(self) -> None:
        """Raises what ends it early."""
        try:
            self._train()
        except Preempted:
            self._close(late=True)
            raise
        except Interrupted:
            self.process.masks_signals = True
            self.world.counts["programs interrupted"] += 1
            if self.manager is not None:
                if self._restored and not self._closing:  # the last save that people make
                    self._save()
                self._close()
            raise

    # -- signal handlers --

    def interrupt(self) -> None:
        """Ctrl-C; or SIGTERM, where a handler turns it into an exception."""
        if self.job.goes_on and not self._saving:
            return  # it would be interrupted in a step of its own
        self.world.counts["signals: raised"] += 1
        self.world.tell(self.process, "is interrupted")
        raise Interrupted

    def save_and_end(self) -> None:
        """SIGTERM, where a handler saves and lets the program come to its end."""
        self.world.counts["signals: saved"] += 1
        self.world.tell(self.process, "has a signal")
        self._ends = True
        if self._restored:
            try:
                self._save()
            except HoldfastError as error:
                self._raised.append(error)

    # -- what it does --

    def _train(self) -> None:
        job, model = self.job, self.model
        self.manager = Manager(model, URL, coordinator=job.coordinator, **self.options)
        if self._closes_after:
            self.process.spawn("closer", self._close_apart)
        self._restore("")
        self._restored = True
        saves = 0
        goal = max(self.goal, model.step + EVERY)
        while model.step < goal and not self._ends:
            Now.scheduler.pause(job.step_time * (0.5 + Now.scheduler.random.random()), "its next step")
            if saves and saves == job.goes_back:
                self._restore(job.older())
            saves += 1
            self._pass_boundaries()
            model.step += EVERY
            model.diverges = saves == job.diverges and self.process is job.workers[-1] and len(job.workers) > 1
            self._save()
        self._close()

    def notice(self) -> None:
        """This host is to go away, as a thread of the process hears."""
        if self.manager is not None and not self.manager._closed:
            self.world.counts["notices"] += 1
            self.world.tell(self.process, "has notice")
            self.manager._requested._noticed("notice")

    def _pass_boundaries(self) -> None:
        """Some steps of which each asks whether all are to save."""
        manager, world, task = self.manager, self.world, self.process.this_task.task
        assert manager is not None
        for _ in range(self.job.boundaries):
            Now.scheduler.pause(0.3 * self.job.step_time * Now.scheduler.random.random(), "its next boundary")
            self.model.step += 1
            saved: list[int] = []
            patience = 6 * (self.options["save_timeout"] + SLACK) + 2 * MARGIN + SETTLES_AFTER
            try:
                with world.bounded("save_if_requested()", patience):
                    path = manager.save_if_requested(self.model.step, before=lambda: saved.append(self.model.step))  # noqa: B023
            except (SaveFailed, CoordinatorUnavailable) as error:
                self._tell("save_if_requested()", error)
                if not saved:
                    raise
                path = None
            finally:
                if saved:
                    world.counts["saves on request"] += 1
                    world.checks.saved_on_request(manager._session.generation, manager._gate.count, task)
            if not saved and not self.process.signalled:
                world.checks.passed(manager._session.generation, manager._gate.count, task)
            if path is not None:
                self.returned.append((path.removeprefix(f"{URL}/"), self.model.step))

    def _save(self) -> None:
        patience = 3 * (self.options["save_timeout"] + SLACK) + 2 * MARGIN + self.options["join_timeout"]
        assert self.manager is not None
        step = self.model.step
        try:
            with self.world.bounded("save()", 2 * patience):  # a signal handler may make another
                self._saving = True
                self.job.begins_save(self.process)
                path = self.manager.save(step, metrics={"loss": step * 7 % 11})
                self._saving = False
        except (SaveFailed, CoordinatorUnavailable) as error:
            self._tell("save()", error)
        except Interrupted as error:
            self._saving = False
            self._raised.append(error)
            if not self.job.goes_on:
                raise
            self.world.counts["saves interrupted"] += 1
        else:
            assert path is not None
            self.returned.append((path.removeprefix(f"{URL}/"), step))

    def _restore(self, target: str) -> None:
        world, began, manager = self.world, Now.scheduler.now, self.manager
        assert manager is not None
        with world.bounded("restore()", 3 * self.options["join_timeout"] + 2 * MARGIN):
            if target:
                world.checks.targets.add(int(target))
                manager.restore(int(target))
                prefix = manager._staged[-1].record.prefix
            else:
                manager.restore_or_initialize()
                prefix = manager._staged[-1].record.prefix if manager._staged else ""
        world.tell(self.process, f"restores {prefix or 'nothing'}")
        world.counts["restores"] += 1
        generation, ordinal = manager._session.generation, manager._restores
        task = self.process.this_task.task
        world.checks.restored(generation, ordinal, task, prefix, began=began, targeted=bool(target))

    def _close(self, *, late: bool = False) -> None:
        """Close as often as there is an error to raise. late: a deadline may have passed meanwhile."""
        assert self.manager is not None
        self._closing = True
        for _ in range(FAILURES):
            try:
                with self.world.bounded("close()", 3 * (self.options["save_timeout"] + SLACK) + 4 * MARGIN):
                    self.manager.close()
            except (SaveFailed, CoordinatorUnavailable) as error:
                self._tell("close()", error)
                if isinstance(error, Superseded):
                    raise
            except Interrupted as error:
                self._raised.append(error)
                raise
            else:
                break
        if late:
            return
        self._check_promises()
        if self.world.calm and not self.process.stopped_for:
            Now.scheduler.pause(LEFT_WITHIN, "what its manager has left to end")
            self.world.check_ended(self.process, "its manager is closed")

    def _close_apart(self) -> None:
        """Close by another thread at some moment."""
        Now.scheduler.pause(self._closes_after, "its moment to close")
        assert self.manager is not None
        if self.world.calm:
            return
        self.world.tell(self.process, "is closed by another thread")
        self.world.counts["closed by another thread"] += 1
        try:
            self.manager.close()
        except HoldfastError as error:
            self._raised.append(error)

    def _tell(self, call: str, error: HoldfastError) -> None:
        self._raised.append(error)
        self.world.tell(self.process, f"{call} raises {error.kind}")

    def _check_promises(self) -> None:
        """Check the promises once `close` has returned."""
        committed, heard = self.world.checks.prefixes, list(_all(self._raised))
        for prefix, step in self.returned:
            told = [e for e in heard if isinstance(e, Superseded) or f"step {step} " in str(e)]
            if prefix not in committed and not told:
                self.world.violate("promise", f"{self.process} was given {prefix}, and nobody said that it failed")
        last = self.returned[-1][0] if self.returned else ""
        if last in committed:
            self.job.last_save[self.process] = last


def _all(errors: list[BaseException]) -> list[BaseException]:
    """They, and those that they came in place of."""
    found: list[BaseException] = []
    for error in errors:
        each: BaseException | None = error
        while each is not None and each not in found:
            found.append(each)
            each = each.__cause__ or each.__context__
    return found
