"""Real processes, killed at bad moments."""

from __future__ import annotations

import json
from collections.abc import Callable
from signal import SIGKILL, SIGTERM

import pytest

from holdfast_storage.store import Store
from support.child import Child
from support.light_job import PROGRAMS, Start, expect, joined, tell
from support.light_worker import committed, log_kinds

pytestmark = pytest.mark.processes


def test_a_coordinator_killed_in_mid_save(
    start: Start, store: Store, coordinate: Callable[[], Child], address: str
) -> None:
    """A save survives the death of its coordinator. Guards against throwing away what was written, and waiting for an
    answer that died with it."""
    coordinator = coordinate()
    workers = joined(start, store, 3, address)
    tell(workers, "save 1")
    expect(workers, "step 1: committed")
    workers[2].say("hold")
    tell(workers, "save 2")
    workers[2].expect("writing")
    coordinator.send(SIGKILL)
    coordinator.wait()
    coordinator = coordinate()
    workers[2].say("open")
    expect(workers, "step 2: committed")
    # And once more, with nobody on the way: the next save meets a coordinator that it does not know.
    coordinator.send(SIGKILL)
    coordinator.wait()
    coordinate()
    tell(workers, "save 3")
    expect(workers, "step 3: committed")
    assert [record.step for record in committed(store)] == [1, 2, 3]
    assert log_kinds(store) == ["import", "lead", "commit", "lead", "commit", "lead", "commit"]
    tell(workers, "close")
    expect(workers, "closed")
    assert [worker.wait() for worker in workers] == [0, 0, 0]


def test_a_worker_killed_in_mid_save(start: Start, store: Store, coordinate: Callable[[], Child], address: str) -> None:
    """A worker's death fails the save, and the restarted job goes on. Guards against half a checkpoint that is visible,
    and others that hang until a deadline."""
    coordinate()
    workers = joined(start, store, 3, address)
    tell(workers, "save 1")
    expect(workers, "step 1: committed")
    workers[1].say("hold")
    tell(workers, "save 2")
    workers[1].expect("writing")
    workers[1].send(SIGKILL)
    for survivor in (workers[0], workers[2]):
        assert "SaveFailed" in survivor.expect("step 2:")
        assert "worker-1 lost" in survivor.output[-1]
        survivor.send(SIGKILL)
    again = joined(start, store, 3, address)
    tell(again, "restore")
    expect(again, "restored 1")
    tell(again, "save 2")
    expect(again, "step 2: committed")
    assert [record.step for record in committed(store)] == [1, 2]


def test_a_chief_killed_with_the_coordinator_in_it(start: Start, store: Store) -> None:
    """A chief that is killed with its coordinator is found again after a restart. Guards against a hint that leads to a
    port where nobody, or somebody else, listens."""
    workers = joined(start, store, 2)
    tell(workers, "save 1")
    expect(workers, "step 1: committed")
    workers[1].say("hold")
    tell(workers, "save 2")
    workers[1].expect("writing")
    for worker in workers:
        worker.send(SIGKILL)
        worker.wait()
    again = joined(start, store, 2)
    tell(again, "restore")
    expect(again, "restored 1")
    tell(again, "save 2")
    expect(again, "step 2: committed")
    assert [record.step for record in committed(store)] == [1, 2]
    # The one that ends first does not take the coordinator away from the other.
    again[0].say("close")
    again[1].say("close")
    expect(again, "closed")
    assert [worker.wait() for worker in again] == [0, 0]


def test_a_coordinator_that_is_ended_finishes_its_save(
    start: Start, store: Store, coordinate: Callable[[], Child], address: str
) -> None:
    """A coordinator that gets SIGTERM finishes its save. Guards against a rolling update that fails the save in
    flight."""
    coordinator = coordinate()
    workers = joined(start, store, 2, address)
    workers[1].say("hold")
    tell(workers, "save 1")
    workers[1].expect("writing")
    coordinator.send(SIGTERM)
    coordinator.expect("ending")
    workers[1].say("open")
    expect(workers, "step 1: committed")
    assert coordinator.wait() == 0
    assert not any("Traceback" in line for line in coordinator.output), coordinator.output


@pytest.mark.parametrize(("how", "status"), [("falls off", 0), ("exits", 7), ("raises", 1)])
def test_a_program_that_ends_without_close_commits_its_last_save(
    start: Start, store: Store, how: str, status: int
) -> None:
    """A program that ends without `close` commits its last save. Guards against losing the last hour of training."""
    config = {"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 0}}
    child = start("-X", "dev", "-W", "error", PROGRAMS / "no_close.py", store.url, how, TF_CONFIG=json.dumps(config))
    assert child.wait() == status, child.output
    assert [record.step for record in committed(store)] == [3]
    noise = [line for line in child.output[1:] if "mistake in the training program" not in line]
    if how != "raises":
        assert noise == []
    assert not any("Exception ignored" in line or "never awaited" in line for line in noise), noise


def test_a_forked_process_leaves_the_run_to_its_parent(start: Start, store: Store) -> None:
    """A fork leaves the run to its parent. Guards against a process of `multiprocessing` that takes two minutes to end,
    and its parent out of the world."""
    config = {"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 0}}
    child = start(PROGRAMS / "no_close.py", store.url, "forks", TF_CONFIG=json.dumps(config))
    assert child.wait() == 0, child.output
    assert [record.step for record in committed(store)] == [3]
