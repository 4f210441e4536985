"""Every call of the storage and every message of a few scenes, and at each of them all that can befall it.

A *scene* is a job's life on a run that is there already, in one order of things, in which nothing goes wrong. Its
points are numbered. A *case* is the same scene up to one of them, with a fault there; from then on all goes well, and
whoever runs the cluster restarts what is dead: a coordinator at the same address, and, for one worker, the whole job.
When the job has come to its end, another life of it saves once more, and then everything must be as if nothing had
happened, but for the save that was on its way.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from holdfast.incremental import Incremental
from holdfast_storage.layout import STATE_FILE, index_object, manifest_object, parse_folder
from holdfast_storage.records import Entry
from simulation.faults import CHANGES
from simulation.network import KEEPALIVE
from simulation.policy import Kind, MessageEffect, MessageFate, Point, Policy, Stage, StorageEffect, StorageFate
from simulation.processes import Process
from simulation.storage import Stored, Violation
from simulation.training import Job, coordinator, fresh
from simulation.world import World

ADDRESS = "coordinator:7070"
OPTIONS: dict[str, Any] = {"max_to_keep": 2, "save_timeout": 20.0, "join_timeout": 40.0}
STEP_TIME = 0.2
LIFE = 600.0  # seconds of virtual time within which a life of a job must end, whatever has happened
LIVES = 4  # within which a job must come to its end

COORDINATOR = "coordinator"
ACTORS = ("worker 0", "worker 1", COORDINATOR)

Act = Literal["begins", "goes back", "finds damage", "saves deltas"]
GOALS: dict[Act, int] = {"begins": 20, "goes back": 50, "finds damage": 40, "saves deltas": 50}
"""Steps that the job comes to, with a save at every tenth."""


def options(act: Act) -> dict[str, Any]:
    """Return the arguments of the managers in an act."""
    return {**OPTIONS, "incremental": Incremental(full_every=3)} if act == "saves deltas" else OPTIONS


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene in which nothing goes wrong by itself."""

    act: Act
    embedded: bool  # the coordinator is in worker 0, and dies with it
    seed: int = 2  # of the order of things; in some, what a job goes back to is retired just before
    restart: float = 0.5  # seconds after which what is dead is started again

    @property
    def actors(self) -> tuple[str, ...]:
        return ACTORS[:2] if self.embedded else ACTORS

    def __str__(self) -> str:
        return f"{self.act}, {'embedded' if self.embedded else 'apart'}, order {self.seed}"


@dataclass(frozen=True, slots=True)
class Label:
    """A point, without its process: equal in every telling."""

    kind: Kind
    actor: str
    verb: str
    what: str

    def __str__(self) -> str:
        return f"{self.actor}: {self.kind} {self.verb} {self.what}"


FaultEffect = Literal["kill", "stays"] | StorageEffect | MessageEffect
When = Literal["before"] | Stage


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault at one point."""

    number: int
    label: Label
    effect: FaultEffect  # "stays": this call fails, and so does every one like it for as long as this life lasts
    actor: str = ""  # who is killed
    when: When = "before"  # it is killed
    late_by: float = 0.0  # seconds, of "late"

    def __str__(self) -> str:
        how = f" by {self.late_by} s" if self.late_by else ""
        what = f"{self.actor} is killed {self.when}" if self.effect == "kill" else f"{self.effect}{how}"
        return f"at {self.number} ({self.label}): {what}"


@dataclass(frozen=True, slots=True)
class Second:
    """Another fault, so many points after the first: any that the point can have, by a seed."""

    after: int
    seed: int


@dataclass(frozen=True, slots=True)
class Case:
    scene: Scene
    fault: Fault | None = None
    second: Second | None = None

    @property
    def is_kill(self) -> bool:
        """Whether somebody is killed, and nothing else happens."""
        return self.fault is not None and self.fault.effect == "kill" and self.second is None

    def __str__(self) -> str:
        more = f", and {self.second.after} points later another ({self.second.seed})" if self.second else ""
        return f"{self.scene}; {self.fault or 'nothing goes wrong'}{more}"


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a case.

    Attributes:
        points: of the scene, in order, where nothing goes wrong.
        violation: what must not have been; empty if nothing.
        story: of a violation, a line for each event.
        ended_at: virtual time at which the job had come to its end.
        lives: that the job needed.
        lost: how often a worker was told that a save has failed, or could not be told what has become of it.
    """

    case: Case
    points: tuple[Label, ...]
    violation: str
    story: tuple[str, ...]
    ended_at: float
    lives: int
    lost: int


# -- what was there before --


@dataclass(slots=True)
class Past:
    """A run directory, and what is known of it."""

    now: float = 0.0
    objects: dict[str, bytes] = field(default_factory=dict)
    rotten: dict[str, set[str]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    committed: set[tuple[str, int]] = field(default_factory=set)
    contents: dict[str, str] = field(default_factory=dict)
    good: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, world: World) -> Past:
        checks, bucket = world.checks, world.bucket
        objects = {name: stored.data for name, stored in bucket.objects.items()}
        return cls(
            world.scheduler.now,
            objects,
            {},
            checks.entries,
            checks.times,
            checks.committed,
            checks.contents,
            checks.good,
        )

    def rot(self, name: str) -> None:
        """Flip a bit in the middle of an object."""
        data = self.objects[name]
        middle = len(data) // 2
        self.objects[name] = data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]
        self.rotten.setdefault(name.partition("/")[0], set()).add(name)

    def world(self, seed: int) -> World:
        """One that goes on from here."""
        world = fresh(World(seed, in_parts=True))
        world.scheduler.now = self.now
        bucket, checks = world.bucket, world.checks
        bucket.objects.update({name: Stored(data, 0.0) for name, data in self.objects.items()})
        bucket.rotten.update({folder: set(names) for folder, names in self.rotten.items()})
        checks.entries.extend(self.entries)
        checks.times.extend(self.times)
        checks.committed |= self.committed
        checks.contents.update(self.contents)
        checks.good |= self.good
        checks.stale = 0.0
        if self.entries:
            bucket.protected = {record.folder for record in self.entries[-1].state.checkpoints}
        return world


class _EndOfTheFirst(Policy):
    """A job is killed in the middle of its fourth save."""

    def __init__(self, world: World) -> None:
        self._world = world

    def reached(self, point: Point, stage: Stage) -> None:
        if point.verb == "write" and point.what.startswith("ckpt-40."):
            for process in list(self._world.processes):
                self._world.kill(process)


@cache
def past(act: Act) -> Past:
    """Nothing; or three saves of a job, and a fourth that was never committed. The first is retired, unless the others
    are deltas on it."""
    if act == "begins":
        return Past()
    world = fresh(World(99, in_parts=True))
    try:
        world.policy = _EndOfTheFirst(world)
        coordinator(world, ADDRESS, "coordinator0")
        first = Job(world, "first", 2, coordinator=ADDRESS, goal=100, options=options(act), step_time=STEP_TIME)
        first.start()
        world.run(lambda: False, 100.0)
        found = Past.of(world)
    finally:
        world.close()
    steps = [record.step for record in found.entries[-1].state.checkpoints]
    folders = {name.partition("/")[0] for name in found.objects}
    assert steps == ([10, 20, 30] if act == "saves deltas" else [20, 30]), steps
    assert [folder for folder in folders if folder.startswith("ckpt-40.")], folders
    if act == "finds damage":
        newest = found.entries[-1].state.checkpoints[-1]
        found.rot(next(name for name in sorted(found.objects) if name.startswith(f"{newest.prefix}.data")))
    return found


# -- a case --


class Script(Policy):
    """Nothing goes wrong but what a case says."""

    def __init__(self, play: Play, case: Case) -> None:
        self._play = play
        self._case = case
        self.faults = {case.fault.number: case.fault} if case.fault else {}
        self._bad: set[tuple[str, str]] = set()
        self.points: list[Label] = []
        self.recording = True

    def heal(self) -> None:
        """End what still goes wrong."""
        self._bad.clear()

    def storage(self, point: Point) -> StorageFate:
        fault = self._begin(point)
        if fault is not None and fault.effect == "stays":
            self._bad.add((point.verb, point.what))
        if (point.verb, point.what) in self._bad:
            return StorageFate("fail")
        if fault is None or fault.effect == "kill":
            return StorageFate()
        return StorageFate(fault.effect, late_by=fault.late_by)  # type: ignore[arg-type]

    def message(self, point: Point) -> MessageFate:
        fault = self._begin(point)
        if fault is None or fault.effect == "kill":
            return MessageFate()
        return MessageFate(fault.effect)  # type: ignore[arg-type]

    def reached(self, point: Point, stage: Stage) -> None:
        if point.verb in ("delete_folder", "replace"):
            self._play.look()
        fault = self.faults.get(point.number)
        if fault is not None and fault.effect == "kill" and fault.when == stage:
            self._play.kill(fault.actor)

    def _begin(self, point: Point) -> Fault | None:
        if self.recording:
            self.points.append(self._play.label(point))
            case = self._case
            if case.fault and case.second and point.number == case.fault.number + case.second.after:
                possible = list(faults(point.number, self.points[-1], case.scene))
                self.faults[point.number] = random.Random(case.second.seed).choice(possible)
        fault = self.faults.get(point.number)
        if fault is not None:
            if fault.label != self.points[-1]:
                self._play.world.violate("order", f"{fault.label} is {self.points[-1]} this time")
            self._play.world.tell("script", fault)
            if fault.effect == "kill" and fault.when == "before":
                self._play.kill(fault.actor)
        return fault


class Play:
    """One telling of a scene, with the faults of a case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        scene = case.scene
        self.world = past(scene.act).world(scene.seed)
        self._script = self.world.policy = Script(self, case)
        self._coordinators: list[Process] = []
        self._job = Job(
            self.world,
            "job",
            2,
            coordinator="" if scene.embedded else ADDRESS,
            goal=GOALS[scene.act],
            options=options(scene.act),
            step_time=STEP_TIME,
            goes_back=1 if scene.act == "goes back" else 0,
        )

    def run(self) -> Result:
        violation = ""
        ended_at, lives, lost = 0.0, 0, 0
        try:
            if not self.case.scene.embedded:
                self._start_coordinator()
            self._live()
            ended_at, lives, lost = self.world.scheduler.now, self._job.lives, self._lost
            self._script.recording = False
            if self.case.is_kill and lost > len(self._job.workers):
                raise Violation("lost", f"{lost} times a save was not told to be committed")
            self._settle()
        except Violation as error:
            violation = str(error)
        finally:
            self.world.close()
        points = () if self.case.fault else tuple(self._script.points)
        story = tuple(self.world.story()) if violation else ()
        return Result(self.case, points, violation, story, ended_at, lives, lost)

    @property
    def _lost(self) -> int:
        """Return how often a worker heard that a save failed, or that nobody knows its outcome."""
        counts = self.world.counts
        return sum(n for what, n in counts.items() if what.startswith("saves told ") and what != "saves told committed")

    # -- who runs the cluster --

    def _live(self) -> None:
        """Live until the job has ended, starting it again if a worker was killed or has given up."""
        world, job = self.world, self._job
        for _ in range(LIVES):
            self._script.heal()
            job.start()
            world.tell("job", f"begins life {job.lives}, up to step {job.goal}")
            if not world.run(lambda: job.over or self._is_broken(), LIFE):
                raise Violation("liveness", f"the job does not come to its end\n{world.waits()}")
            if job.done:
                return
            world.run(lambda: False, self.case.scene.restart)
            for worker in job.workers:
                world.kill(worker)
        how = ", ".join(f"{worker}: {job.ended.get(worker, 'killed')}" for worker in job.workers)
        raise Violation("liveness", f"the job has not come to its end in {LIVES} lives ({how})")

    def _is_broken(self) -> bool:
        return any(not worker.alive and worker not in self._job.ended for worker in self._job.workers)

    def _start_coordinator(self) -> None:
        name = f"coordinator{len(self._coordinators) + 1}"
        self._coordinators.append(coordinator(self.world, ADDRESS, name))

    # -- what the script asks for --

    def label(self, point: Point) -> Label:
        process = point.process
        actor = f"worker {process.this_task.task.index}" if process.this_task else COORDINATOR
        what = re.sub(r"job\d+/", "worker ", point.what)
        return Label(point.kind, actor, point.verb, what)

    def kill(self, actor: str) -> None:
        """SIGKILL to who plays that part now."""
        if actor == COORDINATOR:
            process = self._coordinators[-1]
            if process.alive:
                self.world.scheduler.later(None, self.case.scene.restart, self._start_coordinator)
        else:
            process = self._job.workers[int(actor.removeprefix("worker "))]
        self.world.kill(process)

    def look(self) -> None:
        """Check that what TensorFlow alone would find exists."""
        stored = self.world.bucket.objects.get(STATE_FILE)
        match = re.search(rb'^model_checkpoint_path: "(.*)"', stored.data) if stored else None
        if match is None:
            return
        prefix = match[1].decode()
        folder = prefix.rpartition("/")[0]
        missing = [n for n in (index_object(prefix), manifest_object(folder)) if n not in self.world.bucket.objects]
        if missing:
            self.world.violate("stock", f"TensorFlow's state file names {prefix}, and {missing} is not there")

    # -- when it is over --

    def _settle(self) -> None:
        """One more life, in which nothing goes wrong; then all must be in order."""
        world, job = self.world, self._job
        self._script.heal()
        for fault in self._script.faults.values():
            # What is late arrives, who hears nothing from somebody who has gone learns that he has, and who had no
            # storage ends what he had begun.
            world.run(lambda: False, KEEPALIVE + 1.0 if fault.effect in ("silence", "stays") else fault.late_by)
        job.goes_back = 0
        lives, lost = job.lives, self._lost
        self._live()
        if job.lives != lives + 1 or self._lost != lost:
            raise Violation(
                "liveness", f"{job.lives - lives} lives and {self._lost - lost} losses where nothing is wrong"
            )
        world.run(lambda: False, 20.0)
        world.checks.quiet()
        self._check_directory()

    def _check_directory(self) -> None:
        bucket, state = self.world.bucket, self.world.checks.state
        assert state is not None
        newest = state.checkpoints[-1]
        last = {self._job.last_save[worker] for worker in self._job.workers}
        if last != {newest.prefix}:
            raise Violation("newest", f"{newest.prefix} is the newest, the last save was {last}")
        good = [record for record in state.checkpoints if record.folder not in bucket.rotten]
        needed = {each for record in good[-OPTIONS["max_to_keep"] :] for each in state.chain(record)}
        if set(good) != needed or len(good) < OPTIONS["max_to_keep"]:
            raise Violation("retention", f"{[record.prefix for record in good]} are kept")
        live = {record.folder for record in state.checkpoints}
        left = {folder for name in bucket.objects if parse_folder(folder := name.partition("/")[0])} - live
        if left:
            raise Violation("leftover", f"{sorted(left)} is no checkpoint of the run and still there")
        self.look()


def play(case: Case) -> Result:
    """Run a case."""
    return Play(case).run()


# -- all cases --

LATE = (0.03, 5.0, 15.0)
"""Seconds: before the first repetition of a create, amid them, and after the last."""


def cases(scene: Scene, points: tuple[Label, ...]) -> Iterator[Case]:
    """Every fault at every point."""
    for number, label in enumerate(points, 1):
        for fault in faults(number, label, scene):
            yield Case(scene, fault)


def pairs(scene: Scene, points: tuple[Label, ...], count: int, seed: int) -> Iterator[Case]:
    """Yield `count` cases in which two things go wrong, drawn by a seed."""
    draw = random.Random(f"{scene} {seed}")
    for _ in range(count):
        number = draw.randrange(len(points)) + 1
        fault = draw.choice(list(faults(number, points[number - 1], scene)))
        yield Case(scene, fault, Second(1 + int(draw.expovariate(1 / 40)), draw.randrange(1 << 32)))


def faults(number: int, label: Label, scene: Scene) -> Iterator[Fault]:
    """All that can go wrong at a point."""
    changes = label.kind != "storage" or label.verb in CHANGES
    whens: list[When] = ["before"]
    if changes:
        whens.append("done")
    if label.verb in ("write", "delete_folder"):
        whens.append("amid")
    # Whoever only looks changes nothing: if another dies then, it is as if it had at the next change or message.
    mortals = scene.actors if changes else (label.actor,)
    for actor in mortals:
        for when in whens:
            yield Fault(number, label, "kill", actor, when)
    for effect in _effects(label):
        yield Fault(number, label, effect)
    if label.verb == "create":
        for seconds in LATE:
            yield Fault(number, label, "late", late_by=seconds)


def _effects(label: Label) -> tuple[FaultEffect, ...]:
    if label.kind == "storage":
        if label.verb == "create":
            return ("fail", "refuse", "lose", "stays")
        return ("fail", "lose", "stays") if label.verb in CHANGES else ("fail", "stays")
    if label.verb == "Attend":
        return ("cut", "silence")
    if label.kind == "request":
        return ("cut", "passed_and_cut", "doubled", "silence")
    return ("cut", "silence", "refused")
