"""A few threads for one list of jobs."""

from __future__ import annotations

import signal
import threading
from queue import SimpleQueue
from types import FrameType

import pytest

from holdfast_storage.parallel import in_parallel


def test_results_come_in_the_order_of_the_items() -> None:
    """Results are in the order of the items. Guards against objects that are reported with the entries of others."""
    barrier = threading.Barrier(2)

    def job(number: int) -> int:
        barrier.wait(10)
        return -number

    assert in_parallel(job, range(6), threads=2) == [0, -1, -2, -3, -4, -5]


def test_the_first_error_ends_it() -> None:
    """The first error ends the work. Guards against waiting for the same error at every further object on a
    full disk."""
    begun = []

    def job(number: int) -> None:
        begun.append(number)
        raise OSError(f"full at {number}")

    with pytest.raises(OSError, match="full at 0"):
        in_parallel(job, range(1000), threads=1)
    assert begun == [0]


def test_nothing_to_do() -> None:
    """Without items no thread is started. Guards against a worker without a part that starts threads for nothing."""
    assert in_parallel(lambda item: item, [], threads=4) == []


def test_an_interrupt_waits_for_those_who_are_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted caller waits for the threads that are at work. Guards against a thread that goes on writing to
    descriptors that its caller has closed and that are others by now, since an interrupted `Thread.join` takes a
    running thread for ended."""
    begun: SimpleQueue[None] = SimpleQueue()
    go, ended = threading.Event(), threading.Event()
    mine = threading.get_ident()
    interrupts = []

    def job(number: int) -> None:
        if threading.get_ident() == mine:
            begun.get(timeout=60.0)  # and then there is nothing left to do for the caller
            return
        begun.put(None)
        for _ in range(3):  # nor does it help to insist
            signal.pthread_kill(mine, signal.SIGINT)
            assert not go.wait(0.1)
        ended.set()

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            in_parallel(job, range(2), threads=2)
        assert ended.is_set()
        assert len(interrupts) == 3
    finally:
        signal.signal(signal.SIGINT, before)


def test_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started, the caller does all the work. Guards against a save that fails because the host has
    no threads to give."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert in_parallel(lambda item: item + 1, range(5), threads=4) == [1, 2, 3, 4, 5]
