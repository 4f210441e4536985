"""The thread on which a manager's work is done, and waiting for it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from holdfast.session.lane import Lane, Pending
from holdfast_storage.errors import InvalidRequest, StorageError
from support.light_worker import until


def threads_of(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_jobs_are_done_in_order_by_one_thread() -> None:
    """One thread does all jobs in order. Guards against saves that overtake each other, or two at once."""
    lane, done = Lane("lane-order"), []

    def job(number: int) -> int:
        done.append((number, threading.current_thread().name))
        return number

    pending = [lane.submit(lambda n=number: job(n)) for number in range(50)]
    assert [each.wait(10.0) and each.result() for each in pending] == list(range(50))
    assert done == [(number, "lane-order") for number in range(50)]
    lane.end()
    until(lambda: not threads_of("lane-order"))


def test_a_second_thread_ends_at_once() -> None:
    """A second thread ends at once. Guards against two threads that share the jobs because a caller was interrupted
    while it started one."""
    lane, hold = Lane("lane-second"), threading.Event()
    pending = lane.submit(lambda: hold.wait(10.0))
    second = threading.Thread(target=lane._work)
    second.start()
    second.join(10.0)
    assert not second.is_alive()
    hold.set()
    assert pending.wait(10.0)
    lane.end()


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    """An error is raised where the result is asked for. Guards against a lane that ends with it, and later calls that
    wait for ever."""
    lane = Lane("lane-error")
    pending = lane.submit(lambda: 1 // 0)
    assert pending.wait(10.0)
    with pytest.raises(ZeroDivisionError):
        pending.result()
    assert lane.submit(lambda: 5).wait(10.0)
    lane.end()
    with pytest.raises(InvalidRequest, match="closed"):
        lane.submit(lambda: 5)


def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started, the call fails, and a later one works. Guards against waiting for a job that nobody
    does."""
    lane, done = Lane("lane-limit"), []

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        with pytest.raises(StorageError, match="Check the limits on threads"):
            lane.submit(lambda: done.append(1))
    assert lane.submit(lambda: done.append(2)).wait(10.0)
    assert done == [2]
    lane.end()


def test_many_wait_for_one_thing() -> None:
    """Several threads may wait for one result. Guards against waking only the first of them."""
    pending: Pending[str] = Pending()
    assert not pending.wait(0.0)
    found: list[Any] = []
    waiting = [threading.Thread(target=lambda: found.append(pending.wait(10.0))) for _ in range(5)]
    for thread in waiting:
        thread.start()
    until(lambda: len(pending._waiting) == 5)
    pending.set("said")
    for thread in waiting:
        thread.join(10.0)
    assert found == [True] * 5
    assert pending.result() == "said"
    assert pending._waiting == []
