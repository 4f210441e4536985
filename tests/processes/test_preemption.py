"""Notice for one worker of a job: all save at one boundary of their loops, and end, whatever dies meanwhile.

`HOLDFAST_TEST_PREEMPTIONS=20` makes as many rounds of each.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from signal import SIGTERM

import pytest

from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store
from support.child import Child
from support.figures import Figure
from support.light_job import Start
from support.light_worker import committed
from support.preempted_job import check_preempted, check_survivors, job, notice, saves

pytestmark = pytest.mark.processes

ROUNDS = range(int(os.environ.get("HOLDFAST_TEST_PREEMPTIONS", "3")))
SIZE = 4


@pytest.mark.parametrize("seed", ROUNDS)
def test_notice_for_one(start: Start, store: Store, seed: int, figure: Figure) -> None:
    """SIGTERM for one of four workers at a random moment. Guards against a worker that saves alone, a checkpoint that
    is not there in the end, and a status that restarts nothing."""
    chance = random.Random(seed)
    with job(start, store, SIZE) as workers:
        sent = notice(workers, chance)
        check_preempted(store, workers)
    figure("SIGTERM for one of four workers: all have ended after", f"{time.monotonic() - sent:.2f} s")


@pytest.mark.parametrize("seed", ROUNDS)
def test_notice_and_the_coordinator_dies(  # noqa: PLR0917 - fixtures
    start: Start, store: Store, seed: int, coordinate: Callable[[], Child], address: str, figure: Figure
) -> None:
    """The coordinator is killed amid the agreement, and another one started. Guards against an agreement that dies with
    it, or that its successor takes otherwise."""
    chance = random.Random(100 + seed)
    coordinator = coordinate()
    with job(start, store, SIZE, coordinator=address) as workers:
        sent = notice(workers, chance)
        time.sleep(chance.choice([0.02, 0.1, 0.4]) * chance.random())
        coordinator.kill()
        time.sleep(0.5 * chance.random())
        coordinate()
        check_preempted(store, workers)
    figure("... with the coordinator killed amid the agreement", f"{time.monotonic() - sent:.2f} s")


@pytest.mark.parametrize("seed", ROUNDS)
def test_notice_and_a_worker_dies(start: Start, store: Store, seed: int, figure: Figure) -> None:
    """Another worker is killed amid the agreement. Guards against loops that wait for it for ever, and against a save
    that only some of the others make."""
    chance = random.Random(200 + seed)
    with job(start, store, SIZE, grace=8.0, save_timeout=10.0) as workers:
        victim = workers.pop(chance.randrange(SIZE))
        sent = notice(workers, chance)
        time.sleep(0.06 * chance.random())
        victim.kill()
        check_survivors(workers)
    figure("... with another worker killed amid the agreement", f"{time.monotonic() - sent:.2f} s")


def test_notice_for_all(start: Start, store: Store) -> None:
    """All hosts go away at once, as in a scheduler's preemption. Guards against several saves, one after the other."""
    with job(start, store, SIZE) as workers:
        notice(workers, random.Random(5), SIZE)
        check_preempted(store, workers)
        assert len(saves(workers[0])) == 1


def test_loops_that_are_far_apart(start: Start, store: Store) -> None:
    """Workers that meet only every 20 steps are steps apart. Guards against a boundary that somebody has passed."""
    with job(start, store, 3, sync_every=20, pause=0.004) as workers:
        notice(workers, random.Random(6))
        check_preempted(store, workers)


def test_the_coordinator_is_gone_for_good(
    start: Start, store: Store, coordinate: Callable[[], Child], address: str
) -> None:
    """Without any coordinator, nobody saves, and training goes on. Guards against loops that stop for a dead
    coordinator."""
    coordinator = coordinate()
    with job(start, store, 3, coordinator=address, steps=1200) as workers:
        workers[1].send(SIGTERM)
        coordinator.kill()
        time.sleep(1.0)
        for worker in workers:
            assert worker._process.poll() is None
            assert not saves(worker)


def test_there_is_time_for_one_save(start: Start, store: Store) -> None:
    """With a save in flight and too little time for another, that one is finished. Guards against two saves neither of
    which is committed when the host is gone."""
    with job(start, store, 2, save_at=[5, 60], slow=2.5, grace=6.0) as workers:
        for worker in workers:
            worker.expect("began 60")
        time.sleep(0.2)
        workers[1].send(SIGTERM)
        assert [worker.wait() for worker in workers] == [143, 143]
    assert [saves(worker) for worker in workers] == [[], []]
    assert [record.step for record in committed(store)] == [5, 60]
    assert any("no new one is begun" in line for line in workers[0].output)


def test_by_the_clock(start: Start, store: Store) -> None:
    """`save_every` saves by time, at the same boundaries everywhere. Guards against clocks of workers that decide."""
    with job(start, store, 2, save_every=0.5) as workers:
        for _ in range(3):
            for worker in workers:
                worker.expect("saves")
        for worker in workers:
            worker.kill()
    first, second = (saves(worker) for worker in workers)
    count = min(len(first), len(second))
    assert first[:count] == second[:count]
    state = read_run(store)
    assert state is not None
    assert len(state.checkpoints) >= 2


def test_save_now(start: Start, store: Store) -> None:
    """An operator's command saves, says what was committed, and ends nobody. Guards against a job that must be killed
    to save."""
    with job(start, store, 2) as workers:
        command = [sys.executable, "-m", "holdfast.cli", "save-now", store.url]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip() == f"{store.url}/{committed(store)[-1].prefix}"
        assert all(worker._process.poll() is None for worker in workers)
        for worker in workers:
            worker.expect("saves")
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1
    assert "nobody who trains" in run.stderr
    assert "Traceback" not in run.stderr
