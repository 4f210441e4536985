"""The machine's state is data: it can be copied, compared, hashed and printed, and a copy is a machine of its own."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest

from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core.attempt import Phase
from holdfast_coordinator.core.machine import Machine
from holdfast_coordinator.core.messages import Now
from support.cluster import Client, Cluster, Coordinator


def waiting() -> tuple[Cluster, Coordinator, str]:
    """A coordinator that reads the log for a save that needs the lead, and the generation of its world."""
    cluster = Cluster()
    coordinator = cluster.coordinator()
    workers = cluster.world(coordinator, 2)
    for worker in workers:
        coordinator.call(worker.vote(1))
    return cluster, coordinator, workers[0].caller.generation


def phase(machine: Machine, generation: str) -> Phase:
    attempt = machine.worlds[generation].attempt
    assert attempt
    return attempt.phase


def test_a_copy_is_driven_alone() -> None:
    """A copy of a machine is driven alone. Guards against a wait for the log that holds on to its machine, so that
    driving a copy makes the original act."""
    cluster, coordinator, generation = waiting()
    machine, twin = coordinator.machine, copy.deepcopy(coordinator.machine)
    assert twin == machine
    before = machine.state()
    read = cluster.storage.read()
    (append,) = [e for e in twin.handle(read, cluster.now) if isinstance(e, fx.Append) and e.entry.kind == "import"]
    twin.handle(ev.Appended(append.entry), cluster.now)
    assert machine.state() == before
    assert machine != twin

    # And apart: to the copy's save the storage says no, the original's begins to write.
    assert twin.ledger.current
    (lead,) = twin.ledger.current.tries.values()
    twin.handle(ev.Appended(lead, refused="no space"), cluster.now)
    assert twin.worlds[generation].attempt is None
    coordinator.run()
    assert phase(machine, generation) is Phase.WRITING


def test_equal_states_hash_alike_and_are_printed() -> None:
    """Equal states have equal hashes and a readable text. Guards against a search that takes one state for two, or two
    for one."""
    _, coordinator, generation = waiting()
    _, other, _ = waiting()
    machine = coordinator.machine
    assert machine == other.machine
    assert hash(machine) == hash(other.machine) == hash(copy.deepcopy(machine))
    assert machine != object()
    assert f"Seek(save=SaveId(generation='{generation}', ordinal=1, serial=1))" in repr(machine)
    other.run()
    assert machine != other.machine


def reached(value: Any, seen: set[int]) -> Iterator[Any]:
    """All that a value holds, and what that holds."""
    if id(value) in seen:
        return
    seen.add(id(value))
    yield value
    if isinstance(value, dict):
        held = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset | deque):
        held = list(value)
    elif isinstance(value, Enum):
        held = []
    else:
        slots = (name for each in type(value).__mro__ for name in getattr(each, "__slots__", ()))
        held = [*getattr(value, "__dict__", {}).values(), *(getattr(value, name) for name in slots)]
    for each in held:
        yield from reached(each, seen)


@pytest.mark.parametrize("seed", range(20))
def test_a_copy_does_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In random histories a copy, made at any time, has the same effects and leaves the original as it was. Guards
    against a copy that shares something with its original, or lacks something."""
    chance = random.Random(seed)
    handle = Machine.handle
    twins: dict[int, Machine] = {}  # by machine
    copies = 0

    def watched(machine: Machine, event: ev.Event, now: Now) -> list[fx.Effect]:
        nonlocal copies
        if chance.random() < 0.05:
            copies += 1
            twins[id(machine)] = copy.deepcopy(machine)
            assert not [each for each in reached(machine, set()) if callable(each)]
        twin = twins.get(id(machine))
        if twin is None:
            return handle(machine, event, now)
        before = machine.state()
        theirs = handle(twin, event, now)
        assert machine.state() == before
        ours = handle(machine, event, now)
        assert ours == theirs
        assert machine == twin
        return ours

    monkeypatch.setattr(Machine, "handle", watched)
    cluster = Cluster()
    jobs = [cluster.workers(2), cluster.workers(2)]
    cluster.coordinator()
    for number in range(300):
        if number in (0, 100):
            for worker in jobs[number // 100]:
                worker.goes_back = 3
                worker.terms = {"takeover": True, "timeout": 60.0}
                cluster.clients.append(Client(cluster, worker, cluster.coordinators[-1], 6))
        elif number in (50, 200):
            cluster.restart(killed=chance.random() < 0.5)
        elif chance.random() < 0.08:
            cluster.disturb(chance)
        elif not cluster.step(chance, faults=0.1):
            cluster.tick()
    assert cluster.calm() == []
    assert copies
