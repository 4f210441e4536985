"""Threads for calls to a storage that may never come back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Job = tuple["Future[Any]", Callable[[], Any]]


IDLE_FOR = 30.0
"""Seconds after which a thread without work ends: a coordinator of weeks has met many runs."""


class DaemonThreads(Executor):
    """At most so many threads, each started when it is needed and ended when it no longer is.

    Unlike a `ThreadPoolExecutor`'s, they keep no process alive: one that hangs in a call to a dead mount would, for
    ever. So `shutdown` does not wait, and whoever wants a result waits for its future.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._started = 0
        self._ended = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            if self._ended:
                raise RuntimeError(f"{self._name} has ended")
            self._jobs.put((future, lambda: fn(*args, **kwargs)))
            if not self._idle.acquire(blocking=False) and self._started < self._count:
                self._started += 1
                threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """Take no more work; what has not begun is dropped if asked to."""
        with self._lock:
            self._ended = True
        while cancel_futures:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
            if job is not None:
                job[0].cancel()
        self._jobs.put(None)

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                self._idle.release()
                try:
                    job = self._jobs.get(timeout=IDLE_FOR)
                except Empty:
                    if self._leave():
                        return
                    job = self._jobs.get()
            if job is None:
                self._jobs.put(None)  # for the next thread
                return
            future, call = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    future.set_exception(error)
            del job, future, call  # or the last result lives until the next job

    def _leave(self) -> bool:
        """End this idle thread, unless a job has been handed to it meanwhile."""
        with self._lock:
            idle = self._idle.acquire(blocking=False)
            self._started -= idle
            return idle
