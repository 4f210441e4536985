"""A world in which nothing goes wrong, and the machinery itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from simulation import patches
from simulation.training import Job, coordinator, fresh
from simulation.world import World

ADDRESS = "coordinator:7070"


@pytest.fixture(autouse=True, scope="module")
def in_simulation() -> Iterator[None]:
    with patches.installed():
        yield


def story(seed: int, *, embedded: bool) -> World:
    """Two workers and a coordinator restore nothing, save twice, are restarted, and go on."""
    world = fresh(World(seed))
    try:
        if not embedded:
            coordinator(world, ADDRESS, "coordinator")
        job = Job(world, "job", 2, coordinator="" if embedded else ADDRESS, goal=20)
        job.start()
        assert world.run(lambda: job.over, 200.0), world.waits()
        assert job.done
        job.goal = 40
        job.start()
        assert world.run(lambda: job.over, 200.0), world.waits()
        assert job.done
        world.run(lambda: False, 30.0)
        world.checks.quiet()
    finally:
        world.close()
    return world


@pytest.mark.parametrize("embedded", [False, True])
def test_nothing_goes_wrong(embedded: bool) -> None:
    """Without faults the product does its work in the simulation. Guards against a simulation that proves nothing."""
    world = story(1, embedded=embedded)
    assert world.checks.state is not None
    assert [record.step for record in world.checks.state.checkpoints] == [30, 40]
    assert world.counts["saves told committed"] == 8


def test_a_seed_replays() -> None:
    """A seed replays exactly. Guards against a story whose bug nobody can find."""
    assert story(7, embedded=False).digest == story(7, embedded=False).digest
    assert story(7, embedded=False).digest != story(8, embedded=False).digest
