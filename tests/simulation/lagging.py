"""Three machines whose mounts show late what another one has made: objects, log entries, and what was replaced.

Which file is how late is drawn by the seed for each machine, so that a manifest may be there before its log entry, or
the log before what it speaks of. A machine sees at once what it has made itself. Creates are exclusive all the same, as
they are decided by the server.
"""

from __future__ import annotations

import builtins
import random
from collections import defaultdict
from typing import NamedTuple

from simulation.policy import StorageFate
from simulation.processes import Process
from simulation.storage import Store, View
from simulation.training import EVERY, Job, fresh
from simulation.world import World

LONGEST = 30.0
"""Seconds by which a mount lags, at most."""

OPTIONS = {"max_to_keep": 2, "save_timeout": 200.0, "join_timeout": 300.0}


class Version(NamedTuple):
    """An object as it was written once."""

    since: float
    machine: int
    data: bytes


class Mount(Store):
    """The run directory as one process sees it on its machine."""

    machine: int
    versions: dict[str, list[Version]]
    lags: Lags

    def _found(self, name: str, fate: StorageFate) -> bytes | None:
        if name not in self._bucket.objects:
            return None
        seen = [version for version in self.versions[name] if self._sees(name, version)]
        return seen[-1].data if seen else None

    def list(self, folder: str = "", start: str = "") -> builtins.list[str]:
        self._end(self._begin("list", folder))
        above = f"{folder}/" if folder else ""
        names = [name for name in self._bucket.objects if name.startswith(above) and self._is_seen(name)]
        below = {name.removeprefix(above).partition("/") for name in names}
        return sorted({head + slash for head, slash, _ in below if head.startswith(start)})

    def _is_seen(self, name: str) -> bool:
        return any(self._sees(name, version) for version in self.versions[name])

    def _sees(self, name: str, version: Version) -> bool:
        lag = 0.0 if version.machine == self.machine else self.lags.of(self.machine, name, version)
        return version.since + lag <= self._process.scheduler.now


class Lags:
    """The delays of a story, by its seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        draw = random.Random(f"lags {seed}")
        self.longest = [draw.choice([0.0, 3.0, LONGEST, LONGEST]) for _ in range(3)]

    def of(self, machine: int, name: str, version: Version) -> float:
        """Return the delay in seconds."""
        draw = random.Random(f"{self._seed} {machine} {name} {version.since}")
        return draw.choice([0.1, 1.0, 1.0]) * draw.random() * self.longest[machine]


class LaggingWorld(World):
    """`turn`: by how many machines the hosts of a job are moved on, for the processes that are made from now on."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.turn = 0
        self.lags = Lags(seed)
        self.versions: dict[str, list[Version]] = defaultdict(list)
        self._machines: dict[Process, int] = {}
        checked = self.bucket.changed

        def changed(name: str) -> None:
            process = self.scheduler.current
            machine = -1 if process is None else self._machines[process]
            self.versions[name].append(Version(self.scheduler.now, machine, self.bucket.objects[name].data))
            checked(name)

        self.bucket.changed = changed

    def process(self, name: str, host: str) -> Process:
        made = super().process(name, host)
        machine = self._machines[made] = (int(host.rpartition("-")[2]) + self.turn) % 3
        mount = Mount(self.bucket, View(), made, lambda: self.policy, self.point, in_parts=False)
        mount.machine, mount.versions, mount.lags = machine, self.versions, self.lags
        made.store = mount
        return made


class Restarts:
    """A job that is started again at once, on other machines each time: after its end, or after its workers were killed
    when a save had just been acknowledged."""

    def __init__(self, seed: int, lives: int = 4) -> None:
        self._draw = random.Random(f"restarts {seed}")
        self.world = LaggingWorld(seed)
        fresh(self.world)
        self.world.checks.stale = 0.0  # the newest, at the moment at which it is asked for, or a newer one
        self._lives = lives
        self._job = Job(self.world, "job", 3, options=dict(OPTIONS), step_time=self._draw.choice([0.5, 6.0]))
        self.spent: list[float] = []  # seconds that each restore took

    def run(self) -> LaggingWorld:
        """Raises Violation."""
        try:
            for life in range(self._lives):
                self._live(life)
            self.world.run(lambda: False, 1.0)
        finally:
            self.world.close()
        return self.world

    def _live(self, life: int) -> None:
        world, job = self.world, self._job
        world.turn = self._draw.randrange(3) if life else 0
        job.goal = EVERY * self._draw.randrange(2, 4) * (life + 1)
        enough = self._acknowledged() + self._draw.choice([1, 2, 99])
        job.start()
        began = world.scheduler.now
        world.run(lambda: world.counts["restores"] >= 3 * job.lives or job.over, 600.0)
        self.spent.append(world.scheduler.now - began)
        world.run(lambda: job.over or self._acknowledged() >= enough, 3000.0)
        if not job.over:
            for worker in job.workers:
                world.kill(worker)
        elif not job.done:
            world.violate("ended", f"life {job.lives}: {job.ended}")

    def _acknowledged(self) -> int:
        """Saves of which some worker has been told that they are committed."""
        return sum(any(told.values()) for told in self.world.checks.told.values())
