"""Threads for calls to a storage that may never return."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Job = tuple["Future[Any]", Callable[[], Any]]


IDLE_FOR = 1.0
"""Seconds after which a thread without work ends. Thousands of runs may be opened one after the other, each of which
needs a thread once."""


class DaemonThreads(Executor):
    """A limited number of threads, each started when it is needed and ended when it is not.

    Unlike those of a `ThreadPoolExecutor`, they keep no process alive: a thread that hangs in a call to a dead mount
    would do so for ever. So `shutdown` does not wait; wait for a future to get its result.

    If the host cannot start more threads, a job waits for the existing ones. If there are none, `submit` raises
    RuntimeError, and the next one tries again. A fork has no threads and gets a RuntimeError as well.
    """

    # Everything is under the one lock of `_changed`, so that jobs and threads cannot miss each other: while
    # there is a job there is a thread, and each idle one looks for a job before it waits again or ends.

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._threads = 0
        self._idle = 0  # those that wait, including those that have been woken and have not run yet
        self._ended = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if os.getpid() != self._process:  # checked before the lock, which somebody may have held at the fork
            raise RuntimeError(f"{self._name} is of the process from which this one was forked")
        future: Future[T] = Future()
        with self._changed:
            if self._ended:
                raise RuntimeError(f"{self._name} has ended")
            self._jobs.append((future, lambda: fn(*args, **kwargs)))
            if len(self._jobs) <= self._idle:
                self._changed.notify()
            elif self._threads < self._count:
                self._begin()
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Take no more work. With `cancel_futures`, drop what has not begun."""
        dropped: list[_Job] = []
        with self._changed:
            self._ended = True
            if cancel_futures:
                dropped.extend(self._jobs)
                self._jobs.clear()
            self._changed.notify_all()
        for future, _ in dropped:
            future.cancel()

    def _begin(self) -> None:
        """Start a thread for the last job."""
        self._threads += 1
        try:
            threading.Thread(target=self._work, name=f"{self._name}-{self._threads}", daemon=True).start()
        except Exception:
            self._threads -= 1
            if not self._threads:
                self._jobs.pop()
                raise

    def _work(self) -> None:
        while (job := self._next()) is not None:
            future, call = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    future.set_exception(error)
            del job, future, call  # otherwise the last result would live until the next job

    def _next(self) -> _Job | None:
        """Return a job, or None if this thread should end; it counts as ended then."""
        with self._changed:
            waited = False
            while not self._jobs:
                if self._ended or waited:
                    self._threads -= 1
                    return None
                self._idle += 1
                waited = not self._changed.wait(IDLE_FOR)
                self._idle -= 1
            return self._jobs.popleft()
