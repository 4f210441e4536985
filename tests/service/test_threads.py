"""Storage that hangs: what waits for it, and what must not."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import CancelledError, Future
from queue import SimpleQueue

import pytest

import holdfast_coordinator.driver
import holdfast_coordinator.threads
from holdfast_coordinator.driver import UPKEEP_THREADS
from holdfast_coordinator.threads import DaemonThreads
from holdfast_storage.store import Store
from support.coordinators import Coordinator
from support.gated_store import Gate, GatedStore
from support.light_worker import World, log_kinds, outcomes, until


def threads_of(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def test_no_more_threads_than_are_needed() -> None:
    """There are no more threads than needed. Guards against a thread for each call of weeks."""
    with DaemonThreads(3, "holdfast-test-few") as threads:
        for number in range(20):
            assert threads.submit(lambda n: n + 1, number).result(60.0) == number + 1
            until(lambda: threads._idle > 0)
        assert len(threads_of("holdfast-test-few")) == 1
        together = threading.Barrier(3)
        waits = [threads.submit(together.wait, 60.0) for _ in range(3)]
        assert sorted(wait.result(60.0) for wait in waits) == [0, 1, 2]
        assert list(threads.map(str, range(100))) == [str(number) for number in range(100)]
        assert len(threads_of("holdfast-test-few")) == 3
        with pytest.raises(ZeroDivisionError):
            threads.submit(lambda: 1 // 0).result(60.0)
    until(lambda: not threads_of("holdfast-test-few"))
    with pytest.raises(RuntimeError, match="ended"):
        threads.submit(print)


def test_threads_without_work_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads without work end. Guards against a thread for each run of weeks, and a job that is handed to a thread
    just going."""
    monkeypatch.setattr(holdfast_coordinator.threads, "IDLE_FOR", 0.002)
    threads = DaemonThreads(2, "holdfast-test-idle")
    pause = threading.Event()
    for number in range(300):
        assert threads.submit(lambda n: n, number).result(60.0) == number
        pause.wait(0.0005 * (number % 9))
    until(lambda: not threads_of("holdfast-test-idle"))
    assert threads.submit(lambda: 1).result(60.0) == 1
    threads.shutdown()


def test_no_job_is_lost_and_no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """No job is lost and no thread is left. Guards against a save that waits for a job that nobody does, and idle
    threads that never end."""
    monkeypatch.setattr(holdfast_coordinator.threads, "IDLE_FOR", 0.001)
    for number in range(60):
        threads = DaemonThreads(4, f"holdfast-test-lost-{number}-")
        found: SimpleQueue[int] = SimpleQueue()
        for step in range(40):
            jobs = [threads.submit(sum, range(1000 * (step % 3))) for _ in range(1 + step % 2)]
            jobs[-1].add_done_callback(lambda job, found=found: found.put(job.result()))
            found.get(timeout=60.0)
        assert threads.submit(lambda: 1).result(60.0) == 1
        threads.shutdown()
    until(lambda: not threads_of("holdfast-test-lost"))


def test_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a moment without threads everything works again. Guards against a run that never saves again in a container
    with a limit."""
    threads = DaemonThreads(2, "holdfast-test-none")
    begun, go = threading.Event(), threading.Event()

    def wait() -> bool:
        begun.set()
        return go.wait(60.0)

    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", _no_more_threads)
    for _ in range(5):
        with pytest.raises(RuntimeError, match="start new thread"):
            threads.submit(print)
    monkeypatch.setattr(threading.Thread, "start", start)
    first = threads.submit(wait)
    assert begun.wait(60.0)
    monkeypatch.setattr(threading.Thread, "start", _no_more_threads)
    second = threads.submit(lambda: threading.current_thread().name)
    go.set()
    assert first.result(60.0)
    assert second.result(60.0) == "holdfast-test-none-1"  # by the thread that there is
    monkeypatch.setattr(threading.Thread, "start", start)
    together = threading.Barrier(2)
    assert sorted(job.result(60.0) for job in [threads.submit(together.wait, 60.0) for _ in range(2)]) == [0, 1]
    threads.shutdown()
    until(lambda: not threads_of("holdfast-test-none"))


def _no_more_threads(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.processes
def test_a_fork_has_none_of_the_threads() -> None:
    """A fork has none of the threads, and is told so. Guards against a job that waits for a thread which only the
    parent has."""
    code = (
        "import os, sys; from holdfast_coordinator.threads import DaemonThreads; threads = DaemonThreads(1, 'mine')\n"
        "threads.submit(int).result(); child = os.fork()\n"
        "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "try: threads.submit(int).result()\n"
        "except RuntimeError as error: os._exit('forked' not in str(error))"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60.0)


def test_the_end_drops_what_has_not_begun() -> None:
    """The end drops what has not begun. Guards against a folder that is deleted by a coordinator that has ended."""
    threads = DaemonThreads(1, "holdfast-test-end")
    begun, go = threading.Event(), threading.Event()

    def wait() -> bool:
        begun.set()
        return go.wait(60.0)

    first = threads.submit(wait)
    assert begun.wait(60.0)
    second: Future[None] = threads.submit(print)
    threads.shutdown(cancel_futures=True)
    go.set()
    assert first.result(60.0)
    with pytest.raises(CancelledError):
        second.result(60.0)
    until(lambda: not threads_of("holdfast-test-end"))


@pytest.mark.processes
def test_a_call_that_hangs_keeps_no_process_alive() -> None:
    """A call that hangs keeps no process alive. Guards against programs that have ended and wait for a dead mount."""
    code = (
        "import threading; from holdfast_coordinator.threads import DaemonThreads; begun = threading.Event(); "
        "DaemonThreads(1, 'hangs').submit(lambda: (begun.set(), threading.Event().wait())); begun.wait()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60.0)


def test_deletions_that_hang_hold_up_no_save(
    coordinator: Coordinator, store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deletions that hang hold up no save. Guards against threads that all wait for a folder to go."""
    monkeypatch.setattr(holdfast_coordinator.driver, "STORAGE_THREADS", 1)
    (worker,) = world(1, coordinator, max_to_keep=1)
    worker.join()
    driver = coordinator.server.runs.find(store.url)
    assert driver is not None
    gate = Gate("delete_folder", "ckpt-")
    driver.store = GatedStore(store, gate)
    for step in range(1, UPKEEP_THREADS + 4):  # what is read back takes none of their threads
        assert outcomes([worker.save(step)], 20.0) == [None]
        until(lambda n=step: log_kinds(store).count("retire") == n - 1)  # type: ignore[misc]
    assert outcomes([worker.save(9)], 20.0) == [None]
    assert gate.reached.is_set()
    gate.open()
    until(lambda: len([name for name in store.list() if name.startswith("ckpt-")]) == 1)
