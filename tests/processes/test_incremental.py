"""Incremental saves by real processes, some of which are killed while a delta is written."""

from __future__ import annotations

from collections.abc import Callable
from signal import SIGKILL

import pytest

from holdfast_storage.store import Store
from support.child import Child
from support.light_job import Start, expect, joined, tell
from support.light_worker import committed

pytestmark = pytest.mark.processes


def kinds(store: Store) -> list[tuple[int, bool]]:
    """Step of each live checkpoint, all of which are verified, and whether it is a delta."""
    return [(record.step, bool(record.base)) for record in committed(store)]


def test_a_coordinator_killed_while_a_delta_is_written(
    start: Start, store: Store, coordinate: Callable[[], Child], address: str
) -> None:
    """A delta survives the death of its coordinator as a delta, and the next one is on it. Guards against a successor
    that commits rows as if they were everything, and workers that no longer agree on what was committed."""
    coordinator = coordinate()
    workers = joined(start, store, 2, address, full_every=10)
    tell(workers, "save 1")
    expect(workers, "step 1: committed")
    workers[1].say("hold")
    tell(workers, "save 2")
    workers[1].expect("writing")
    coordinator.send(SIGKILL)
    coordinator.wait()
    coordinate()
    workers[1].say("open")
    expect(workers, "step 2: committed")
    tell(workers, "save 3")
    expect(workers, "step 3: committed")
    assert kinds(store) == [(1, False), (2, True), (3, True)]
    tell(workers, "close")
    expect(workers, "closed")


def test_a_worker_killed_while_it_writes_a_delta(
    start: Start, store: Store, coordinate: Callable[[], Child], address: str
) -> None:
    """A job of which a worker dies in mid-delta goes on from the last commit, and saves everything. Guards against half
    a delta that is visible, and a new job that builds on what an old one has saved."""
    coordinate()
    workers = joined(start, store, 2, address, full_every=10)
    for step in (1, 2):
        tell(workers, f"save {step}")
        expect(workers, f"step {step}: committed")
    workers[1].say("hold")
    tell(workers, "save 3")
    workers[1].expect("writing")
    workers[1].send(SIGKILL)
    workers[0].expect("step 3: SaveFailed")
    assert kinds(store) == [(1, False), (2, True)]
    workers[0].send(SIGKILL)

    workers = joined(start, store, 2, address, full_every=10)
    tell(workers, "restore")
    expect(workers, "restored 2")
    for step in (3, 4):
        tell(workers, f"save {step}")
        expect(workers, f"step {step}: committed")
    assert kinds(store) == [(1, False), (2, True), (3, False), (4, True)]
    tell(workers, "close")
    expect(workers, "closed")
