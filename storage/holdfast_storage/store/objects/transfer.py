"""Requests that carry much data, in their own threads.

An event loop would copy each byte four times and encrypt everything on one core. A thread that sends buffers, or reads
into one, releases the interpreter's lock for nearly all of its time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from holdfast_storage.store.objects.client import Body

T = TypeVar("T")

Fill = Callable[[Callable[[memoryview], int], Callable[[], None]], None]

PIECE = 512 << 10
"""The bytes that are handed to a connection at once. urllib3 allows as long for them as for connecting, 5 s."""


class Stopped(Exception):
    """The transfer was stopped, since nobody waits for it any more."""


class Transfer:
    """The data of one request: a body to send, or a buffer to fill.

    count: the bytes of the buffer that were filled; None before an answer with any.
    """

    def __init__(self, body: Body | None = None, buffer: memoryview | None = None) -> None:
        self.body = body
        self.buffer = buffer
        self.count: int | None = None
        self._lock = threading.Lock()
        self._stopped = False
        self._interrupt: Callable[[], None] | None = None  # while the thread uses the body or the buffer

    def pieces(self) -> Iterator[memoryview]:
        """Yield the pieces of the body, in order."""
        self._begin(lambda: None)  # it ends after the piece
        assert self.body is not None
        for view in self.body.views:
            for start in range(0, len(view), PIECE):
                self._check()
                yield view[start : start + PIECE]
        self._end()

    def fill(self, read_into: Callable[[memoryview], int], interrupt: Callable[[], None]) -> None:
        """Fill the buffer from a stream.

        read_into: fills a buffer with what has arrived, and returns the number of bytes.
        interrupt: makes `read_into` end soon, called from another thread.
        """
        self._begin(interrupt)
        assert self.buffer is not None
        self.count = 0
        while self.count < len(self.buffer):
            count = read_into(self.buffer[self.count :])
            self._check()
            if not count:
                break
            self.count += count
        self._end()

    async def carried_out(self, work: Callable[[], T]) -> T:
        """Do `work` in a thread and return its result. A cancellation waits until the thread has let go of the buffers.

        The thread may still wait for an answer after that, which nobody needs any more.
        """
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name="holdfast-transfer", daemon=True).start()
        waiting = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody asks for it
            at_it = self._stop()
            while at_it and not waiting.done():
                with suppress(asyncio.CancelledError):  # again, which ends it no sooner
                    await asyncio.wait([waiting])
            raise

    def _begin(self, interrupt: Callable[[], None]) -> None:
        with self._lock:
            self._check()
            self._interrupt = interrupt

    def _end(self) -> None:
        with self._lock:
            self._check()
            self._interrupt = None

    def _check(self) -> None:
        if self._stopped:
            raise Stopped

    def _stop(self) -> bool:
        """Stop the thread. Return whether it still uses the body or the buffer, and is going to end soon."""
        with self._lock:
            self._stopped = True
            if self._interrupt is None:
                self.body = self.buffer = None  # memory that must not wait for an answer
                return False
            with suppress(Exception):  # of a connection that has ended, or is TLS in TLS
                self._interrupt()
            return True
