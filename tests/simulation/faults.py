"""A world in which much goes wrong, by the seed.

Each seed has its own choice of what goes wrong, and how often: with everything at once, the rarer things would only be
seen through a fog of the common ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from holdfast_storage.layout import LOG_FOLDER, MANIFEST
from simulation.policy import MessageEffect, MessageFate, Point, Policy, StorageEffect, StorageFate
from simulation.processes import Process
from simulation.world import World

Incident = Callable[[Point], None]
T = TypeVar("T")

CHANGES = ("create", "write", "replace", "delete_folder")
READER = "reader"
"""The name of an evaluator's process."""

OUTLASTS = 15.0
"""Seconds: longer than the shortest timeout of a save, and over before a storm is, so that what follows is seen."""

LONGEST = 8.0
"""Seconds that a slow call takes."""

DECISIVE = 5.0
"""How much more often than elsewhere something happens at the few calls by which all is decided."""

STORAGE: tuple[StorageEffect, ...] = ("fail", "refuse", "lose", "late")
MESSAGES: tuple[MessageEffect, ...] = ("cut", "passed_and_cut", "doubled", "silence", "refused")


class Faults(Policy):
    """Draws what goes wrong.

    Attributes:
        incidents: what may happen to processes, as often as `incidents_left` says.
        rot: share of the objects that are not as they were written.
        commit_outage: how the storage fails whoever makes a certain commit entry, from then on; None: it does not.
    """

    def __init__(self, world: World, draw: random.Random) -> None:
        self._world = world
        self._draw = draw
        self.incidents: list[Incident] = []
        self.incidents_left = draw.choice([0, 1, 2, 3, 5, 8])
        self._incident_every = draw.choice([30, 80, 200])  # points
        shares = [0, 0, 0.004, 0.02, 0.06] if draw.random() < 0.8 else [0]
        self._storage = {effect: draw.choice(shares) for effect in STORAGE}
        self._messages = {effect: draw.choice(shares) for effect in MESSAGES}
        self._messages["silence"] /= 4
        self.rot = draw.choice([0, 0.03, 0.15])
        self._slow = draw.choice([0, 0, 0.01, 0.05])
        self._latency = draw.choice([0.0, 0.002, 0.02, 0.2])
        self._late_by = draw.choice([2.0, 12.0, 40.0])
        self._unseen = draw.choice([0.0, 0.0, 3.0, 10.0])
        self._lag = draw.choice([0.0, 0.0, 5.0, 60.0])
        self._unreachable = draw.choice([0.0, 0.0, 0.1, 0.3])
        rare = random.Random(draw.random())
        self._behind = rare.choice([0.0, 0.0, 0.0, 0.0, 3.0, 10.0])
        self._behind_at: dict[str, float] = {}  # host: seconds
        self.commit_outage: StorageEffect | None = None
        self._commits_left = rare.choice([0, 0, 0, 1])  # before it
        self._finalized: set[str] = set()  # hosts that have written a manifest, and no log entry since
        if rare.random() < 0.1:
            # And nothing else: few saves come so far in a storm, and few coordinators live to see what follows.
            self.commit_outage = rare.choice(["fail", "fail", "fail", "late", "lose"])
            self._storage, self._messages = dict.fromkeys(STORAGE, 0), dict.fromkeys(MESSAGES, 0)
            self.incidents_left = self.rot = self._slow = self._unreachable = 0
        self._reads_only = rare.random() < 0.25  # an evaluator, by its credentials
        self._no_threads: dict[Process, float] = {}  # until when
        self._out: dict[str, tuple[float, StorageEffect]] = {}  # host: until when, and how
        self._apart: dict[Process, float] = {}  # until when

    # -- what lasts for a while --

    def storage_out(self, host: str, seconds: float, effect: StorageEffect | None = None) -> None:
        """A host's calls of the storage fail, all in one way."""
        effect = effect or self._draw.choice(STORAGE)
        self._out[host] = self._world.scheduler.now + seconds, effect
        self._world.counts["storage outages"] += 1
        self._world.tell(host, f"has no storage for {seconds:.0f} s: {effect}")

    def part(self, process: Process, seconds: float) -> None:
        """A process and all others cannot reach each other."""
        self._apart[process] = self._world.scheduler.now + seconds
        for connection in self._world.network.connections:
            if process in (connection.client, connection.server.process):
                connection.silence()
        self._world.counts["partitions"] += 1
        self._world.tell(process, f"is cut off for {seconds:.0f} s")

    def no_threads(self, process: Process, seconds: float) -> None:
        """A process may start no more threads for a while."""
        self._no_threads[process] = self._world.scheduler.now + seconds
        self._world.tell(process, f"can start no threads for {seconds:.1f} s")

    def starts_thread(self, process: Process) -> bool:
        if self._no_threads.get(process, 0.0) <= self._world.scheduler.now:
            return True
        self._world.counts["fault: no thread"] += 1
        return False

    def _is_apart(self, process: Process | None) -> bool:
        return process is not None and self._apart.get(process, 0.0) > self._world.scheduler.now

    # -- what is asked --

    def storage(self, point: Point) -> StorageFate:
        self._happen(point)
        if self.commit_outage:
            self._look_for_a_commit(point)
        effect = self._storage_effect(point)
        if effect != "done":
            self._counted(f"storage {effect}", point)
        draw = self._draw.random
        before, after = self._delay(), self._delay()
        if not after and point.verb in CHANGES and draw() < 0.5:
            after = 0.0001  # for somebody to die in between
        unseen = self._unseen * draw() if self._unseen and draw() < 0.5 else 0.0
        lag = self._lag * draw() if self._lag and point.verb == "list" else 0.0
        behind = 0.0
        if self._behind:
            behind = self._behind_at.setdefault(point.process.host, self._behind * self._draw.choice([0.0, 0.5, 1.0]))
            self._world.counts["fault: a mount is behind"] += behind > 0
        late_by = self._late_by * draw()
        return StorageFate(effect, before, after, late_by=late_by, unseen=unseen, behind=behind, lag=lag)

    def _look_for_a_commit(self, point: Point) -> None:
        host, made = point.process.host, point.verb in ("create", "replace")
        if made and point.what.endswith(f"/{MANIFEST}"):
            self._finalized.add(host)
        elif made and point.what.startswith(LOG_FOLDER) and host in self._finalized:
            self._finalized.discard(host)
            if self._commits_left == 0:
                self.storage_out(host, OUTLASTS, self.commit_outage)
            self._commits_left -= 1

    def _storage_effect(self, point: Point) -> StorageEffect:
        until, effect = self._out.get(point.process.host, (0.0, "done"))
        changes = point.verb in CHANGES
        if changes and self._reads_only and point.process.name == READER:
            return "refuse" if point.verb == "create" else "fail"
        if until <= self._world.scheduler.now:
            effect = _drawn(self._storage, self._draw, "done", DECISIVE if point.verb == "create" else 1.0)
            if effect != "done" and not changes and self._draw.random() < 0.8:
                return "done"  # a restore reads much, and one error ends it
        if effect == "done":
            rots = point.verb == "write" and self._world.checks.good and self._draw.random() < self.rot
            return "rot" if rots else "done"
        if not changes or (effect == "refuse" and point.verb != "create"):
            return "fail"
        return "lose" if effect == "late" and point.verb == "delete_folder" else effect

    def message(self, point: Point) -> MessageFate:
        self._happen(point)
        effect = _drawn(self._messages, self._draw, "passed", DECISIVE / 2 if point.verb == "Report" else 1.0)
        streams = point.verb == "Attend" and effect not in ("cut", "silence")
        if streams or effect == ("doubled" if point.kind == "reply" else "refused"):
            effect = "passed"
        if effect != "passed":
            self._counted(f"{point.kind} {effect}", point)
        return MessageFate(effect, self._delay())

    def connects(self, client: Process, address: str) -> float | None:
        server = self._world.network.listeners.get(address)
        apart = self._is_apart(client) or self._is_apart(server and server.process)
        if apart or self._draw.random() < self._unreachable:
            self._world.counts["fault: connect"] += 1
            self._world.tell(client, f"cannot reach {address}")
            return None
        return self._delay()

    def _delay(self) -> float:
        draw = self._draw.random
        if self._slow and draw() < self._slow:
            self._world.counts["fault: slow"] += 1
            return LONGEST * draw()
        return self._latency * draw() if self._latency and draw() < 0.3 else 0.0

    def _happen(self, point: Point) -> None:
        every = self._incident_every / (DECISIVE if point.verb in ("create", "Report") else 1.0)
        if self.incidents_left > 0 and self.incidents and self._draw.random() * every < 1:
            self.incidents_left -= 1
            self._draw.choice(self.incidents)(point)

    def _counted(self, what: str, point: Point) -> None:
        self._world.counts[f"fault: {what}"] += 1
        self._world.tell(point.process, f"{point.number}: {what}")


def _drawn(shares: dict[T, float], draw: random.Random, otherwise: T, weight: float) -> T:
    chance = draw.random() / weight
    for effect, share in shares.items():
        chance -= share
        if chance < 0:
            return effect
    return otherwise


class Calm(Policy):
    """Nothing goes wrong, and all takes a little time."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw

    def storage(self, point: Point) -> StorageFate:
        return StorageFate(before=self._delay(), after=self._delay())

    def message(self, point: Point) -> MessageFate:
        return MessageFate(delay=self._delay())

    def _delay(self) -> float:
        return 0.01 if self._draw.random() < 0.1 else 0.0
