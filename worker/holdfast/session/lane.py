"""The lane of a manager: its own thread, which does one thing after the other and which no signal interrupts.

Python runs signal handlers in the main thread, between any two of its instructions. A handler may raise (Ctrl-C does),
or call the manager that it has interrupted. So a training thread keeps no state here. It hands over a piece of work,
which is one instruction, and waits for the result. It may stop waiting at any time; what was handed over goes on.

A training thread uses no lock, condition or join of `threading` here. These are Python code, and an exception between
two of their lines leaves them wrong: CPython 3.11's `Thread.join` marks a running thread as stopped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from holdfast_storage.errors import InvalidRequest, StorageError

T = TypeVar("T")

_NOTHING: Any = object()


class Pending(Generic[T]):
    """A value or an error that one thread sets, once, and others wait for."""

    def __init__(self) -> None:
        self._value: T = _NOTHING
        self._error: BaseException | None = None
        self._waiting: list[SimpleQueue[None]] = []

    @property
    def is_known(self) -> bool:
        return self._value is not _NOTHING or self._error is not None

    def set(self, value: T) -> None:
        self._value = value
        self._wake()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds, and return whether it is known. An interrupt changes nothing here."""
        if self.is_known:
            return True
        woken: SimpleQueue[None] = SimpleQueue()
        self._waiting.append(woken)
        if not self.is_known:  # the value may have been set just before this queue was known
            with suppress(Empty):
                woken.get(timeout=timeout)
        self._waiting.remove(woken)
        return self.is_known

    def result(self) -> T:
        """Return the value, which must be known, or raise the error."""
        if self._error is not None:
            raise self._error
        return self._value

    def _wake(self) -> None:
        for woken in list(self._waiting):
            woken.put(None)


class Lane:
    """A thread that does jobs in the order in which they were handed over.

    Args:
        name: the thread's name. The thread starts with the first job and keeps no process alive.
    """

    def __init__(self, name: str) -> None:
        self.caller: threading.Thread | None = None  # the last thread that has handed over a job
        self._name = name
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Pending[Any]] | None] = SimpleQueue()
        self._taken = threading.Lock()  # held by the one thread that works, from its first instruction on
        self._ended = False
        self._gone = False  # nobody does what is handed over from now on

    def submit(self, job: Callable[[], T]) -> Pending[T]:
        """Hand over a job. It will be done even if the caller is interrupted right after.

        Raises StorageError if no thread can be started, and InvalidRequest after `end`. Then the job is not done.
        """
        if self._ended:
            raise closed()
        self.caller = threading.current_thread()
        if not self._taken.locked():
            # A caller that is interrupted here does not know whether it has started a thread. The next one starts
            # another, and a thread that finds the place taken ends.
            try:
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
            except RuntimeError as error:
                raise StorageError(
                    f"{self._name}, the thread for this call, cannot be started: {error}. Nothing was begun. Check "
                    "the limits on threads (ulimit -u, and the container's limit of pids)"
                ) from error
        pending: Pending[T] = Pending()
        self._jobs.put((job, pending))
        if self._gone:  # a signal handler has ended the lane while this call was on its way
            pending.fail(closed())
        return pending

    def end(self) -> None:
        """Take no more jobs. The thread ends after those that it has."""
        self._ended = True
        self._jobs.put(None)

    def _work(self) -> None:
        if not self._taken.acquire(blocking=False):
            return
        while (item := self._jobs.get()) is not None:
            job, pending = item
            try:
                pending.set(job())
            except BaseException as error:
                pending.fail(error)
            del item, job, pending  # otherwise what the last job holds would live until the next one
        self._refuse()
        self._gone = True
        self._refuse()  # what was handed over in between

    def _refuse(self) -> None:
        """Refuse what was handed over after the end, so that nobody waits for it."""
        with suppress(Empty):
            while True:
                if (item := self._jobs.get_nowait()) is not None:
                    item[1].fail(closed())


def closed() -> InvalidRequest:
    return InvalidRequest("this CheckpointManager is closed")
