"""One random history: jobs that save and restore, and all that befalls them, until all is calm and must be well."""

from __future__ import annotations

import random
from contextlib import nullcontext
from datetime import timedelta

from holdfast import keep, preemption
from holdfast.incremental import Incremental
from simulation.faults import Calm, Faults
from simulation.operator import operator
from simulation.policy import Point
from simulation.preemption import Preemption
from simulation.processes import Process
from simulation.program import EVERY
from simulation.reader import reader
from simulation.storage import Violation
from simulation.training import Job, coordinator, fresh
from simulation.world import LEFT_WITHIN, World

ADDRESS = "coordinator:7070"
LOOK = 1.0  # seconds between two looks of who runs the jobs
STORM = 20.0  # seconds for which things go wrong
CALM = 900.0  # seconds by which all must be well after that


class Story:
    """Tells one. Who runs the jobs (as an operator or a scheduler of a cluster would) is part of it."""

    def __init__(self, seed: int) -> None:
        draw = self._draw = random.Random(f"story {seed}")
        self._apart = random.Random(f"threads {seed}")  # of what happens within processes
        self.world = fresh(World(seed, in_parts=draw.random() < 0.5))
        self.faults = Faults(self.world, random.Random(f"faults {seed}"))
        self.world.policy = self.faults
        self.embedded = draw.random() < 0.4
        self._coordinators: list[Process] = []
        self._storm = True
        self._pending: set[str] = set()
        self._preemption = Preemption(self.world, self._apart) if self._apart.random() < 0.35 else None
        options = {
            "max_to_keep": draw.choice([1, 1, 2, 3, None]),
            "save_timeout": draw.choice([6.0, 12.0, 25.0]),
            "join_timeout": draw.choice([15.0, 30.0]),
            "keep_checkpoint_every_n_hours": draw.choice([None, None, None, 0.001]),
            "on_divergence": draw.choice(["refuse", "refuse", "warn"]),
        }
        rules = random.Random(f"rules {seed}")
        if rules.random() < 0.4:
            del options["max_to_keep"], options["keep_checkpoint_every_n_hours"]
            options["keep"] = _policy(rules)
        deltas = random.Random(f"deltas {seed}")
        if deltas.random() < 0.5:
            options["incremental"] = Incremental(full_every=deltas.randrange(2, 5))
        self._requests = random.Random(f"requests {seed}")
        self.asks = self._requests.random() < 0.4
        if self.asks:
            options["preemption"] = preemption.Preemption(grace=40.0, signals=(), exits=self._requests.random() < 0.7)
            options["save_every"] = timedelta(seconds=4) if self._requests.random() < 0.5 else None
        self._orders = random.Random(f"operator {seed}")
        self.has_operator = self._orders.random() < 0.4 and options.get("max_to_keep") != 1
        self.jobs = [self._job("job", options)]
        self.second = self._job("other", {**options, "takeover": draw.random() < 0.5}) if draw.random() < 0.4 else None
        self._reads = random.Random(f"reader {seed}")
        self.has_reader = self._reads.random() < 0.3
        incidents = [
            self._kill, self._kill, self._kill_coordinator, self._kill_coordinator, self._stop, self._stop_coordinator,
            self._stop_coordinator, self._jump, self._vanish, self._cut_off, self._no_storage,
        ]  # fmt: skip
        incidents += [self._signal] * 3 + [self._no_threads]
        if not self.embedded:
            incidents += [self._take_address] * 2
        self.faults.incidents = draw.choices(incidents, k=draw.randrange(1, 5))

    def _job(self, name: str, options: dict[str, object]) -> Job:
        draw = self._draw
        return Job(
            self.world,
            name,
            draw.choice([1, 2, 2, 3]),
            coordinator="" if self.embedded else ADDRESS,
            goal=EVERY * draw.randrange(2, 5),
            options=options,
            step_time=draw.choice([0.5, 2.0, 6.0]),
            goes_back=draw.choice([0, 1, 2, 2, 2]),
            diverges=draw.choice([0, 0, 0, 1, 2]),
            collective=draw.random() < 0.5,
            forked=self._apart.random() < 0.4,
            handler=self._apart.choice(["interrupt", "interrupt", "save_and_end"]),
            boundaries=3 if self.asks else 0,
            closes_after=30.0 * self._apart.random() if self._apart.random() < 0.1 else 0.0,
        )

    def run(self) -> World:
        """Raises Violation."""
        with self._preemption.on() if self._preemption else nullcontext():
            return self._run()

    def _run(self) -> World:
        world = self.world
        world.scheduler.preempts = self._preemption is not None
        try:
            if not self.embedded:
                self._start_coordinator()
            self._start(self.jobs[0])
            if self.has_reader:
                reader(world, self._reads)
            if self.has_operator:
                operator(world, self._orders)
            if self.second is not None:
                world.scheduler.later(None, 20.0 * self._draw.random(), self._join_second)
            for _ in range(self._requests.randrange(4) if self.asks else 0):
                world.scheduler.later(None, STORM * self._requests.random(), self._notice)
            self._look()
            world.run(lambda: False, STORM * (2 if self.has_operator else 1))  # he needs something to choose from
            self._calm()
            self._end()
        finally:
            world.close()
            if self._preemption is not None:
                world.counts["preemptions"] += self._preemption.switches
                world.counts["places"] += self._preemption.places
        return world

    # -- who runs the jobs --

    def _look(self) -> None:
        """Restart what has ended, after a while."""
        for job in self.jobs:
            if job.name in self._pending:
                continue
            dead = [worker for worker in job.workers if not worker.alive and worker not in job.ended]
            failed = [worker for worker in job.workers if job.ended.get(worker, "done") != "done"]
            stuck = [worker for worker in job.workers if worker.stopped]
            if job.over and not dead and not failed:
                job.goal += EVERY * self._draw.randrange(1, 3)
                self._soon(job, self._draw.choice([1.0, 12.0]))
            elif dead or failed or (stuck and self._draw.random() < 0.1):
                self._soon(job, self._draw.choice([0.5, 4.0, 10.0]))
        missing = not self.embedded and not any(process.alive for process in self._coordinators)
        if missing and self._storm and "coordinator" not in self._pending:
            self._pending.add("coordinator")
            self.world.scheduler.later(None, self._draw.choice([0.2, 2.0, 15.0]), self._start_coordinator)
        if self._storm:
            self.world.scheduler.later(None, LOOK, self._look)

    def _soon(self, job: Job, seconds: float) -> None:
        self._pending.add(job.name)
        self.world.scheduler.later(None, seconds, self._restart, job)

    def _restart(self, job: Job) -> None:
        """End what is left of a job's life, but for what is stopped: that may be woken later; and begin another."""
        self._pending.discard(job.name)
        if job not in self.jobs:
            return
        for worker in job.workers:
            if worker.stopped and self._storm:
                self.world.scheduler.later(None, 15.0 * self._draw.random(), self._wake, worker)
            elif self._storm and worker.alive and self._draw.random() < 0.2:
                self.world.stop(worker)
                self.world.scheduler.later(None, 25.0 * self._draw.random(), self._wake, worker)
            else:
                self.world.kill(worker)
        if not self._storm:
            state = self.world.checks.state
            steps = [record.step for record in state.checkpoints] if state else []
            job.goal = EVERY + max(steps, default=0)
        self._start(job, self._draw.choice([0, 0, 0, 1, 2, 3]))

    def _start(self, job: Job, workers: int = 0) -> None:
        job.start(workers)
        self.world.counts["lives"] += 1
        self.world.tell(job.name, f"begins life {job.lives} with {len(job.workers)} workers, up to step {job.goal}")

    def _join_second(self) -> None:
        if self._storm and self.second is not None:
            self.jobs.append(self.second)
            self._start(self.second)

    def _start_coordinator(self) -> None:
        self._pending.discard("coordinator")
        self.world.network.free(ADDRESS)
        name = f"coordinator{len(self._coordinators) + 1}"
        self._coordinators.append(coordinator(self.world, ADDRESS, name))
        self.world.tell(name, f"begins at {ADDRESS}")

    def _wake(self, process: Process) -> None:
        if process.stopped:
            self.world.counts["zombies woken"] += 1
            self.world.resume(process)

    # -- what befalls them --

    def _some_worker(self) -> Process | None:
        living = [worker for job in self.jobs for worker in job.workers if worker.alive]
        return self._draw.choice(living) if living else None

    def _some_coordinator(self) -> Process | None:
        if self.embedded:
            living = [job.workers[0] for job in self.jobs if job.workers and job.workers[0].alive]
        else:
            living = [process for process in self._coordinators if process.alive]
        return self._draw.choice(living) if living else None

    def _kill(self, point: Point) -> None:
        """Kill the process at this very point, or another one at this moment."""
        self._end_one(point.process if self._draw.random() < 0.6 else self._some_worker(), host=False)

    def _vanish(self, point: Point) -> None:
        self._end_one(self._draw.choice([point.process, self._some_worker()]), host=True)

    def _kill_coordinator(self, point: Point) -> None:
        self._end_one(self._some_coordinator(), host=False)

    def _end_one(self, process: Process | None, *, host: bool) -> None:
        if process is not None:
            self.world.kill(process, host=host)

    def _stop(self, point: Point) -> None:
        self._stop_one(self._draw.choice([point.process, self._some_worker()]))

    def _stop_coordinator(self, point: Point) -> None:
        process = self._some_coordinator()
        self._stop_one(process)
        if process in self._coordinators and self._draw.random() < 0.7:
            # Whoever runs the cluster takes it for dead, and starts another.
            self.world.scheduler.later(None, 3.0 * self._draw.random(), self._take_address, point)

    def _stop_one(self, process: Process | None) -> None:
        if process is not None:
            self.world.stop(process)
            self.world.scheduler.later(None, self._draw.choice([1.0, 8.0, 25.0]), self._wake, process)

    def _take_address(self, point: Point) -> None:
        """A second coordinator comes up, and the name leads to it, while the first one lives."""
        self.world.counts["two coordinators"] += 1
        self._start_coordinator()
        if self._draw.random() < 0.7:
            for connection in list(self.world.network.connections):
                if self._draw.random() < 0.7:
                    connection.cut("a proxy has let go of it")

    def _cut_off(self, point: Point) -> None:
        process = self._draw.choice([point.process, self._some_worker(), self._some_coordinator()])
        if process is not None:
            self.faults.part(process, self._draw.choice([3.0, 15.0, 40.0]))

    def _no_storage(self, point: Point) -> None:
        process = self._draw.choice([point.process, self._some_coordinator()]) or point.process
        self.faults.storage_out(process.host, self._draw.choice([2.0, 15.0, 30.0]))

    def _signal(self, point: Point) -> None:
        """Signal all workers of a job, as whoever runs the cluster does, or one of them."""
        job = self._draw.choice(self.jobs)
        everybody = self._draw.random() < 0.6
        for worker in job.workers if everybody else [self._draw.choice(job.workers)]:
            self.world.scheduler.later(None, 0.4 * self._draw.random(), self._signal_one, job, worker)

    def _signal_one(self, job: Job, worker: Process) -> None:
        if worker.program is not None and self._storm:
            worker.signal(getattr(worker.program, job.handler))
            if self._preemption is not None:
                self._preemption.soon()

    def _notice(self) -> None:
        """A host is to go away; perhaps the coordinator is killed while the workers agree on what to do."""
        draw = self._requests
        living = [worker for job in self.jobs for worker in job.workers if worker.alive and worker.program is not None]
        if not living or not self._storm:
            return
        worker = draw.choice(living)
        worker.spawn("notice", worker.program.notice)
        if draw.random() < 0.4:
            self.world.scheduler.later(None, draw.choice([0.05, 0.5, 3.0]) * draw.random(), self._lose_coordinator)

    def _lose_coordinator(self) -> None:
        if self._storm:
            self._end_one(self._some_coordinator(), host=False)

    def _no_threads(self, point: Point) -> None:
        process = self._draw.choice([point.process, self._some_coordinator()]) or point.process
        self.faults.no_threads(process, self._draw.choice([0.5, 3.0, 10.0]))

    def _jump(self, point: Point) -> None:
        """A wall clock is set."""
        process = self._draw.choice([point.process, self._some_worker() or point.process])
        process.wall_offset += self._draw.choice([-1e6, -3600.0, -5.0, 7.0, 3600.0, 1e6])
        self.world.counts["clock jumps"] += 1
        self.world.tell(process, f"has its wall clock set to {process.wall():.0f}")

    # -- when it is over --

    def _calm(self) -> None:
        """Nothing goes wrong from now on: one job goes on, with one coordinator."""
        world = self.world
        world.tell("story", "all is calm from here on")
        world.policy = Calm(random.Random(f"calm {world.seed}"))
        self._storm = False
        world.calm = True
        if self._preemption is not None:
            self._preemption.calm()
        for job in self.jobs[1:] if self._draw.random() < 0.5 else self.jobs[:-1]:
            for worker in job.workers:
                world.kill(worker)
            self.jobs.remove(job)
        living = {worker for job in self.jobs for worker in job.workers}
        for process in world.processes:
            if process.program is not None and process not in living:
                world.kill(process)  # what is left of earlier lives, which whoever runs the cluster would not leave
            self._wake(process)
        if not self.embedded:
            listening = world.network.listeners.get(ADDRESS)
            if listening is None or not listening.process.alive:
                self._start_coordinator()

    def _end(self) -> None:
        world, job = self.world, self.jobs[0]
        job.goes_back = job.diverges = 0
        # What is on its way to the storage arrives before the last save.
        world.run(lambda: False, max(5.0, world.bucket.landed + 1.0 - world.scheduler.now))
        calm_since = world.scheduler.now
        for _ in range(4):
            if job.name not in self._pending and (job.over or self._broken(job)):
                if job.started_at >= calm_since and self._has_saved(job):
                    break
                world.run(lambda: False, LOOK)
                self._restart(job)
            world.run(lambda: (job.over or self._broken(job)) and not self._pending, CALM)
        if not self._has_saved(job):
            how = ", ".join(f"{worker}: {job.ended.get(worker, 'has not ended')}" for worker in job.workers)
            raise Violation("liveness", f"{job.name} comes to no end with a save ({how})\n{world.waits()}")
        world.run(lambda: False, 20.0)
        world.checks.quiet()
        for process in self._coordinators:
            if process.alive:
                world.check_idle(process)
        self._end_coordinators()

    def _end_coordinators(self) -> None:
        """End the coordinators in good order, after which nothing of them may be left."""
        living = [process for process in self._coordinators if process.alive]
        stopping = [process.loop.create_task(process.server.stop(2.0)) for process in living if process.loop]
        if not self.world.run(lambda: all(task.done() for task in stopping), CALM):
            raise Violation("liveness", f"a coordinator does not end\n{self.world.waits()}")
        self.world.run(lambda: False, LEFT_WITHIN)
        for process in living:
            self.world.check_ended(process, "its coordinator has ended")
        self.world.run(lambda: True, 1.0)

    def _has_saved(self, job: Job) -> bool:
        """Return whether all workers of a job have ended in good order, with their last save committed."""
        return job.done and all(worker in job.last_save for worker in job.workers)

    def _broken(self, job: Job) -> bool:
        """Return whether a worker of a job is gone for good, so that the others cannot go on."""
        return any(not worker.alive and job.ended.get(worker) != "done" for worker in job.workers)


def _policy(draw: random.Random) -> keep.Policy:
    """Two rules of what to keep, for histories of some saves within some minutes."""
    rules = [
        keep.newest(draw.randrange(1, 3)),
        keep.best(draw.randrange(1, 3), "loss", mode=draw.choice(["min", "max"])),
        keep.newer_than(seconds=draw.choice([5.0, 60.0])),
        keep.every(seconds=draw.choice([10.0, 100.0])),
        keep.every_steps(draw.choice([20, 40])),
    ]
    one, other = draw.sample(rules, 2)
    return one | other
