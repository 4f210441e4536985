"""The coordinator's threads, in every order in which they may run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

import holdfast_coordinator.threads
from holdfast_coordinator.threads import DaemonThreads
from simulation import fakes, patches
from simulation.preemption import Instrumented
from simulation.processes import Process
from simulation.schedules import every_schedule

POOL = [holdfast_coordinator.threads]


@pytest.fixture(autouse=True, scope="module")
def in_simulation() -> Iterator[None]:
    with patches.installed():
        yield


def idle_for() -> float:
    return holdfast_coordinator.threads.IDLE_FOR


def done(*futures: Future[int]) -> list[int]:
    """Their results, waited for as an event loop would."""
    event = fakes.Event()
    for future in futures:
        future.add_done_callback(lambda _: event.set())
    while not all(future.done() for future in futures):
        event.clear()
        assert all(future.done() for future in futures) or event.wait(5.0), "a job is not run"
    return [future.result() for future in futures]


def none_is_left(process: Process, threads: DaemonThreads) -> None:
    fakes.time.sleep(3 * idle_for())
    assert process.threads == ["main"], f"idle threads are left: {process.threads}"
    assert (threads._threads, threads._idle, len(threads._jobs)) == (0, 0, 0)


def test_jobs_that_come_when_threads_end() -> None:
    """In every order, a job that comes when threads end is done. Guards against a job that nobody runs, and threads
    that never end."""

    def program(process: Process) -> None:
        threads = DaemonThreads(2, "pool")
        assert done(threads.submit(int, 1)) == [1]
        fakes.time.sleep(idle_for())
        assert done(threads.submit(int, 2)) == [2]
        none_is_left(process, threads)

    assert every_schedule(POOL, 2, program) > 1000


def test_threads_that_cannot_be_started() -> None:
    """In every order, failing starts of threads are counted right. Guards against a count of threads that do not exist,
    after which no job runs."""

    def program(process: Process) -> None:
        threads, starts = DaemonThreads(2, "pool"), iter([False, True, False, False, True, True, True])
        process.can_start_threads = lambda: next(starts)
        with pytest.raises(RuntimeError, match="start new thread"):
            threads.submit(int, 1)
        first = threads.submit(int, 2)
        futures = [first]
        for number in (3, 4):
            try:
                futures.append(threads.submit(int, number))
            except RuntimeError:
                assert threads._threads == 0
        assert done(*futures)[0] == 2
        process.can_start_threads = lambda: True
        assert done(threads.submit(int, 5), threads.submit(int, 6)) == [5, 6]
        none_is_left(process, threads)

    assert every_schedule(POOL, 1, program) > 1000


def test_the_end() -> None:
    """In every order, the end of a pool ends everything. Guards against a job that waits for ever in a pool that has
    ended, and threads that wait for one."""

    def program(process: Process) -> None:
        threads = DaemonThreads(2, "pool")
        futures = [threads.submit(int, number) for number in range(3)]
        threads.shutdown(cancel_futures=True)
        with pytest.raises(RuntimeError, match="ended"):
            threads.submit(int)
        fakes.time.sleep(0.001)
        assert all(future.done() for future in futures)
        assert process.threads == ["main"]

    assert every_schedule(POOL, 1, program) > 100


def test_functions_that_the_collector_has_put_aside_have_places() -> None:
    """Functions are found although the garbage collector was frozen since. Guards against simulations that preempt
    nothing, and pass."""
    found = len(Instrumented(POOL))
    gc.freeze()
    assert len(Instrumented(POOL)) == found > 0
