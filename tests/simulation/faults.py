"""A world in which much goes wrong, by the seed.

Each seed has its own choice of what goes wrong, and how often: with everything at once, the rarer things would only be
seen through a fog of the common ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from simulation.policy import MessageEffect, MessageFate, Point, Policy, StorageEffect, StorageFate
from simulation.processes import Process
from simulation.world import World

Incident = Callable[[Point], None]

CHANGES = ("create", "write", "replace", "delete_folder")
LONGEST = 8.0
"""Seconds: a slow call, a message on its way, a change that lands late."""


class Faults(Policy):
    """Draws what goes wrong.

    incidents: what may happen to processes, as often as `incidents_left` says.
    """

    def __init__(self, world: World, draw: random.Random) -> None:
        self._world = world
        self._draw = draw
        self.incidents: list[Incident] = []
        self.incidents_left = draw.choice([0, 1, 1, 2, 2, 3, 5])
        self._incident_every = draw.choice([40, 100, 200])  # points
        some = lambda effects: {e: draw.choice([0, 0, 0.004, 0.02, 0.06]) for e in effects}  # noqa: E731
        if draw.random() < 0.15:
            some = lambda effects: dict.fromkeys(effects, 0.0)  # noqa: E731
        storage: list[StorageEffect] = ["fail", "refuse", "lose", "late"]
        messages: list[MessageEffect] = ["cut", "passed_and_cut", "doubled", "silence", "refused"]
        self._storage = some(storage)
        self._messages = some(messages)
        self._messages["silence"] /= 4
        self._rot = draw.choice([0, 0, 0, 0.02, 0.1])
        self._slow = draw.choice([0, 0, 0.01, 0.05])
        self._latency = draw.choice([0.0, 0.002, 0.02, 0.2])
        self._unseen = draw.choice([0.0, 0.0, 3.0, 10.0])
        self._lag = draw.choice([0.0, 0.0, 5.0, 60.0])
        self._unreachable = draw.choice([0.0, 0.0, 0.1, 0.3])

    def storage(self, point: Point) -> StorageFate:
        self._happen(point)
        draw = self._draw.random
        effect: StorageEffect = "done"
        chance = draw()
        for each, share in self._storage.items():
            chance -= share
            if chance < 0:
                effect = each
                break
        if effect != "done" and point.verb not in CHANGES and draw() < 0.8:
            effect = "done"  # a restore reads much, and one error ends it
        if effect == "done" and point.verb == "write" and self._world.checks.good and draw() < self._rot:
            effect = "rot"
        if effect in ("lose", "late") and point.verb not in CHANGES:
            effect = "fail"
        if effect == "refuse" and point.verb != "create":
            effect = "fail"
        if effect == "late" and point.verb == "delete_folder":
            effect = "lose"
        if effect != "done":
            self._counted(f"storage {effect}", point)
        before, after = self._delay(), self._delay()
        if not after and point.verb in CHANGES and draw() < 0.5:
            after = 0.0001  # for somebody to die in between
        unseen = self._unseen * draw() if self._unseen and draw() < 0.5 else 0.0
        lag = self._lag * draw() if self._lag and point.verb == "list" else 0.0
        return StorageFate(effect, before, after, late_by=LONGEST * draw(), unseen=unseen, lag=lag)

    def message(self, point: Point) -> MessageFate:
        self._happen(point)
        chance = self._draw.random()
        effect: MessageEffect = "passed"
        for each, share in self._messages.items():
            chance -= share
            if chance < 0:
                effect = each
                break
        if point.verb == "Attend" and effect not in ("passed", "cut", "silence"):
            effect = "passed"
        if effect == "doubled" and point.kind == "reply":
            effect = "passed"
        if effect == "refused" and point.kind == "request":
            effect = "passed"
        if effect != "passed":
            self._counted(f"{point.kind} {effect}", point)
        return MessageFate(effect, self._delay())

    def connects(self, client: Process, address: str) -> float | None:
        if self._draw.random() < self._unreachable:
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
        if self.incidents_left > 0 and self.incidents and self._draw.random() * self._incident_every < 1:
            self.incidents_left -= 1
            self._draw.choice(self.incidents)(point)

    def _counted(self, what: str, point: Point) -> None:
        self._world.counts[f"fault: {what}"] += 1
        self._world.tell(point.process, f"{point.number}: {what}")


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
