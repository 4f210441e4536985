"""Training programs: the product's own `CheckpointManager` over a model of a few tensors, without TensorFlow.

`holdfast.saving.capture` and `holdfast.restoring.apply`, which know TensorFlow, are replaced; everything between them
and the storage is the product's. What a checkpoint must hold follows from the job that saved it and the step.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import holdfast.session.open_sessions
import holdfast.session.session
from holdfast.preemption import Preempted
from holdfast.restoring.staging import Staged
from holdfast.saving.save import SLACK, Save
from holdfast.saving.snapshot import Snapshot
from holdfast.session.this_task import ThisTask
from holdfast_coordinator.server import Server
from holdfast_storage.cluster import Cluster, Task
from holdfast_storage.errors import CoordinatorUnavailable, HoldfastError
from simulation.contents import OWN, expected, read_bundle, read_file, snapshot
from simulation.fakes import Now, here
from simulation.network import Network
from simulation.processes import Process
from simulation.program import EVERY, Interrupted, Program
from simulation.storage import URL
from simulation.world import MARGIN, World


class Current:
    """The world that runs now."""

    world: World


def network() -> Network:
    return Current.world.network


def told(process: Process, message: str) -> None:
    Current.world.tell(process, f"logs: {message}")


def broke(process: Process, message: str, error: BaseException) -> None:
    Current.world.broke(f"{process} logs {message!r}: {error!r}")


def unraisable(_: object) -> None:
    """Nobody's."""


class Counter:
    """Stands for the save counter."""

    value = 0

    def assign_add(self, count: int) -> None:
        self.value += count

    def __int__(self) -> int:
        return self.value


class Model:
    """Stands for a `tf.train.Checkpoint`, with its values."""

    def __init__(self, task: Task, life: str, collective: bool) -> None:
        self.task = task
        self.life = life  # of the job: part of what it saves
        self.step = 0
        self.diverges = False
        self.collective = collective
        self.captured: list[int] = []  # the steps of its snapshots
        self.save_counter = Counter()

    @property
    def salt(self) -> str:
        return f"{self.life}/{self.step}"

    def restore(self, prefix: None) -> None:
        """Nothing is there to be restored."""
        assert prefix is None

    def capture(self) -> Snapshot:
        self.captured.append(self.step)
        return snapshot(self.salt, self.task, diverges=self.diverges, collective=self.collective)


def apply(model: Model, per_worker: None, staged: Staged) -> None:
    """Stands for `holdfast.restoring.apply`: takes the values, and looks whether they are those that were saved."""
    values = read_bundle(staged.prefix, read_file)
    model.step = staged.record.step
    world, prefix = Current.world, staged.record.prefix
    assert staged.manifest is not None
    chief = staged.manifest.world[0]
    owner = model.task if staged.world_matches else chief
    salts = world.checks.contents
    if (prefix, chief) not in salts:
        world.violate("restore", f"{model.task} restores {prefix}, which nobody has saved")
        return
    want = {**expected(salts[prefix, chief], chief), OWN: expected(salts[prefix, owner], owner)[OWN]}
    for key, value in want.items():
        if values.get(key) != value:
            world.violate("restore", f"{model.task} restores another {key} than was saved as {prefix}")


CAPTURE = ModuleType("holdfast.saving.capture")
CAPTURE.Snapshotter = lambda model: model  # type: ignore[attr-defined]
RESTORE = ModuleType("holdfast.restoring.apply")
RESTORE.apply = apply  # type: ignore[attr-defined]
RESTORE.Values = None  # type: ignore[attr-defined]


class WatchedSave(Save):
    """A save whose outcome is checked as soon as it is known."""

    __slots__ = ()

    def __init__(self, *args: Any, **fields: Any) -> None:
        super().__init__(*args, taken=here().wall(), **fields)

    def run(self) -> None:
        model = here().model
        Current.world.checks.contents[self.prefix, model.task] = f"{model.life}/{self.step}"
        super().run()

    def _work(self) -> None:
        world, process = Current.world, here()
        # Twice each deadline that it has: a vote that is repeated with specs, and the report.
        with world.bounded(f"save {self.ordinal}", 3 * (self.terms.save_timeout + SLACK) + MARGIN):
            super()._work()
        if not process.alive:
            return
        generation, task, error = self.session.generation, self.session.this_task.task, self.error
        outcome = "committed" if error is None else error.kind
        world.tell(process, f"save {self.ordinal} of step {self.step}: {outcome} {error or ''}")
        world.counts[f"saves told {outcome}"] += 1
        if not isinstance(error, CoordinatorUnavailable):
            world.checks.outcome(generation, self.ordinal, task, error is None)


# -- who runs --


class Job:
    """A training job: the same program on so many workers.

    Args:
        name: of the job; a job that is restarted has another life.
        coordinator: its address; empty: embedded in the chief.
        goal: the step at which it ends, after one save at least.
    """

    def __init__(
        self,
        world: World,
        name: str,
        workers: int,
        *,
        coordinator: str = "",
        goal: int = 30,
        options: dict[str, Any] | None = None,
        step_time: float = 1.0,
        goes_back: int = 0,
        diverges: int = 0,
        collective: bool = False,
        forked: bool = False,
        handler: str = "",
        closes_after: float = 0.0,
        goes_on: bool = False,
        boundaries: int = 0,
        begins_save: Callable[[Process], None] = lambda process: None,
    ) -> None:
        self.world = world
        self.name = name
        self.goal = goal
        self.coordinator = coordinator
        self.options = options or {}
        self.step_time = step_time
        self.goes_back = goes_back  # after so many saves it restores an older checkpoint
        self.diverges = diverges  # at its so-manieth save the last worker's weights differ
        self.collective = collective  # a snapshot that one worker took alone would hang
        self.forked = forked  # by a launcher on each host, with all that it has in its memory, again and again
        self.handler = handler  # of signals: "interrupt" or "save_and_end"
        self.goes_on = goes_on  # where a signal has interrupted a save
        self.boundaries = boundaries  # between two saves
        self.begins_save = begins_save
        self._closes_after = closes_after  # seconds after which another thread closes the manager
        self.lives = 0
        self.started_at = 0.0
        self.workers: list[Process] = []
        self.ended: dict[Process, str] = {}
        self.last_save: dict[Process, str] = {}
        self._target = ""
        self.size = workers

    def start(self, workers: int = 0) -> None:
        """New processes for all its workers."""
        self.lives += 1
        self.started_at = self.world.scheduler.now
        self.size = workers or self.size
        self._target = ""
        life = f"{self.name}{self.lives}"
        cluster: Cluster = (("worker", tuple(f"{self.name}-host-{i}:1000" for i in range(self.size))),)
        self.workers = []
        for index in range(self.size):
            process = self.world.process(f"{life}/{index}", f"{self.name}-host-{index}")
            process.this_task = ThisTask(Task("worker", index), cluster)
            process.model = Model(process.this_task.task, life, self.collective)
            self.workers.append(process)
            if self.forked:
                self.world.counts["forks"] += 1
                process.memory = self.world.launcher(process.host).forked()
            process.main = process.spawn("main", self._main, process, self.goal)

    @property
    def over(self) -> bool:
        return all(worker in self.ended or not worker.alive for worker in self.workers)

    @property
    def done(self) -> bool:
        """Whether all workers of its last life have ended in good order."""
        return all(self.ended.get(worker) == "done" for worker in self.workers)

    def _main(self, process: Process, goal: int) -> None:
        world = self.world
        process.program = Program(self, world, process, goal, self._closes_after)
        try:
            process.program.run()
            how = "done"
        except HoldfastError as error:
            how = error.kind
            world.tell(process, f"ends: {error}")
        except Interrupted:
            how = "interrupted"
        except Preempted:
            how = "preempted"
        except RuntimeError as error:
            if "start new thread" not in str(error):
                raise
            how = "no threads"
        if process.alive:
            self.ended[process] = how
            self._check_snapshots()
            world.tell(process, f"ends: {how}")
            world.counts[f"programs: {how}"] += 1
            process.at_end.clear()
            world.network.died(process, host=False)
            process.kill()

    def _check_snapshots(self) -> None:
        """Check that all workers took the same snapshots, if taking one is a collective."""
        signalled = any(worker.signalled for worker in self.workers)  # these may make calls of their own
        if self.collective and self.done and not signalled:
            taken = {tuple(worker.model.captured) for worker in self.workers}
            if len(taken) > 1:
                self.world.violate("snapshots", f"the workers of {self.name} took them at different steps: {taken}")

    def older(self) -> str:
        """The step that all workers go back to: chosen by the first that asks."""
        if not self._target:
            state = self.world.checks.state
            steps = [record.step for record in state.checkpoints] if state else []
            self._target = str(steps[-2] if len(steps) > 1 else steps[-1] if steps else EVERY)
        return self._target


def coordinator(world: World, address: str, name: str) -> Process:
    """A coordinator process that listens at an address."""
    process = world.process(name, f"{name}-host")
    assert process.loop is not None

    async def serve() -> None:
        process.server = Server([URL])
        await process.server.start(address)

    process.loop.call_soon(lambda: _keep(process, serve()))
    return process


def _keep(process: Process, coroutine: Any) -> None:
    assert process.loop is not None
    process.starting = process.loop.create_task(coroutine)


def fresh(world: World) -> World:
    """Make this the world that runs now, with nothing left of the one before."""
    Current.world = world
    Now.scheduler = world.scheduler
    holdfast.session.open_sessions._open.clear()
    return world
