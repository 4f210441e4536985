"""Histories of a job whose workers have signals at random instants, in a world in which nothing else goes wrong.

So more can be asked for than in `simulation.story`: whatever one worker's training program makes of an interrupt, the
job saves again soon; the last save of a program that ends after one is committed, if there is one worker alone; nothing
is left of closed managers. Or one of the workers sleeps, while many a save of the others fails without it.
"""

from __future__ import annotations

import random

from simulation.faults import Calm
from simulation.preemption import Preemption
from simulation.processes import Process
from simulation.program import EVERY
from simulation.storage import Violation
from simulation.training import Job, coordinator, fresh
from simulation.world import World

ADDRESS = "coordinator:7070"
SAVES = 6
LATEST = 3
"""Of so many saves, the last during which there are signals: those who disagree need two to agree again."""

LONG, SLEEP = 30, 25.0
"""Saves of a job of which one worker sleeps, and seconds for which it does: more of them fail than are remembered."""

STEP = 0.05  # seconds
WITHIN = 600.0  # seconds in which all must have ended


class Interruption:
    """One history, by the seed."""

    def __init__(self, seed: int) -> None:
        draw = self._draw = random.Random(f"interruption {seed}")
        self.world = fresh(World(seed, Calm(random.Random(f"calm {seed}"))))
        self.world.calm = True
        self._preemption = Preemption(self.world, draw)
        self._preemption.calm()
        self.embedded = draw.random() < 0.5
        workers = draw.choice([1, 2, 2, 3])
        self._sleeps = workers > 1 and draw.random() < 0.25
        self.job = Job(
            self.world,
            "job",
            workers,
            coordinator="" if self.embedded else ADDRESS,
            goal=(LONG if self._sleeps else SAVES) * EVERY,
            options={"max_to_keep": None, "save_timeout": 0.5 if self._sleeps else 20.0},
            step_time=STEP,
            forked=draw.random() < 0.3,
            handler=draw.choice(["interrupt", "interrupt", "save_and_end"]),
            goes_on=draw.random() < 0.7,
            begins_save=self._saves,
        )
        self._awaiting: set[Process] = set()  # workers that have a signal in their next save
        self._signals = draw.choice([1, 1, 2])

    @property
    def interrupts_saves(self) -> bool:
        """Whether signals come in saves, and the program goes on. Elsewhere it ignores them."""
        return self.job.goes_on and self.job.handler == "interrupt"

    def run(self) -> World:
        """Raises Violation."""
        world, job = self.world, self.job
        try:
            with self._preemption.on():
                world.scheduler.preempts = True
                if not self.embedded:
                    coordinator(world, ADDRESS, "coordinator")
                job.start()
                if self._sleeps:
                    world.scheduler.later(None, 2 * STEP, self._sleep)
                for _ in range(0 if self._sleeps else self._signals):
                    # Each save takes about a step's time, as Calm has it.
                    world.scheduler.later(None, 2 * STEP * LATEST * self._draw.random(), self._signal)
                if not world.run(lambda: job.over, WITHIN):
                    raise Violation("liveness", f"{job.name} has not ended\n{world.waits()}")
                self._check()
                world.run(lambda: True, 0.0)
        finally:
            world.close()
            world.counts["interruptions"] += 1
            world.counts["preemptions"] += self._preemption.switches
            world.counts["places"] += self._preemption.places
        return world

    def _signal(self) -> None:
        workers = self.job.workers
        for worker in workers if self._draw.random() < 0.5 else [self._draw.choice(workers)]:
            if self._may_have_one(worker):
                if self.interrupts_saves:
                    self._awaiting.add(worker)
                else:
                    self._signal_one(worker)

    def _saves(self, worker: Process) -> None:
        if worker in self._awaiting and self._may_have_one(worker):
            self._awaiting.remove(worker)
            self._signal_one(worker)

    def _signal_one(self, worker: Process) -> None:
        worker.signal(getattr(worker.program, self.job.handler))
        self._preemption.soon(200)

    def _sleep(self) -> None:
        worker = self.job.workers[-1]
        self.world.counts["laggards"] += 1
        self.world.stop(worker)
        self.world.scheduler.later(None, SLEEP, self.world.resume, worker)

    def _may_have_one(self, worker: Process) -> bool:
        program = worker.program
        return worker.alive and program is not None and bool(program.returned) and program.model.step <= LATEST * EVERY

    def _check(self) -> None:
        world, job = self.world, self.job
        goes_on = job.goes_on and job.handler == "interrupt"
        if len(job.workers) == 1 or (goes_on and not self._sleeps):
            state = world.checks.state
            last = max((record.step for record in state.checkpoints), default=0) if state else 0
            step = max(worker.model.step for worker in job.workers)
            if last != step:
                raise Violation("liveness", f"the last save, of step {step}, is not committed, but that of step {last}")
