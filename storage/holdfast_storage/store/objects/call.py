"""A coroutine on an event loop, seen from another thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, wait
from typing import Any, Generic, TypeVar

T = TypeVar("T")

STOPS_WITHIN = 15.0
"""Seconds within which a stopped call ends and lets go of everything that it was given."""


class Call(Generic[T]):
    """A call that begins at once and ends when the coroutine does, not already when it is cancelled."""

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, T],
        loop: asyncio.AbstractEventLoop,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        """at_end: is called on the loop, however the coroutine ends."""
        self._coroutine = coroutine
        self._loop = loop
        self._at_end = at_end
        self._future: Future[T] = Future()
        loop.call_soon_threadsafe(self._begin)

    @property
    def failed(self) -> bool:
        """Whether the call has ended with an error."""
        return self._future.done() and self._future.exception() is not None

    def result(self) -> T:
        """Wait for the result. An interrupt of the wait stops the call."""
        try:
            return self._future.result()
        finally:
            stop_all([self])

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._coroutine)
        self._task.add_done_callback(self._end)

    def _cancel(self) -> None:
        self._task.cancel()

    def _end(self, task: asyncio.Task[T]) -> None:
        self._at_end()
        error = CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self._future.set_result(task.result())
        else:
            self._future.set_exception(error)


def results(calls: Sequence[Call[T]]) -> list[T]:
    """Return all results, or raise the first error, however long the other calls may take."""
    done, _ = wait([call._future for call in calls], return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()
    return [call.result() for call in calls]


def stop_all(calls: Sequence[Call[Any]]) -> None:
    """Stop these calls, and wait until they have ended."""
    pending = [call for call in calls if not call._future.done()]
    for call in pending:
        call._loop.call_soon_threadsafe(call._cancel)
    wait([call._future for call in pending], STOPS_WITHIN)
