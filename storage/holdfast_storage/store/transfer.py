"""Requests that carry much data, in threads of their own.

An event loop would copy each byte four times and encrypt all of it on one core. A thread that sends buffers, or reads
into one, gives up the interpreter's lock for nearly all of its time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from holdfast_storage.store.client import Body

T = TypeVar("T")

PIECE = 1 << 20
"""Bytes that are handed to a connection, or taken from it, at once."""


class Stopped(Exception):
    """Nobody waits for a transfer any more."""


class Transfer:
    """What one request carries: a body to be sent, or a buffer to be filled.

    count: bytes of the buffer that were filled; None before there was an answer with any.
    """

    def __init__(self, body: Body | None = None, buffer: memoryview | None = None) -> None:
        self.body = body
        self.buffer = buffer
        self.count: int | None = None
        self._stopped = threading.Event()

    def pieces(self) -> Iterator[memoryview]:
        """Of the body, in order."""
        assert self.body is not None
        for view in self.body.views:
            for start in range(0, len(view), PIECE):
                self._check()
                yield view[start : start + PIECE]

    def fill(self, read: Callable[[int], bytes]) -> None:
        """Fill the buffer from a stream, of which `read(n)` gives up to n bytes, and none at its end."""
        assert self.buffer is not None
        self.count = 0
        while self.count < len(self.buffer):
            self._check()
            data = read(min(PIECE, len(self.buffer) - self.count))
            if not data:
                return
            self.buffer[self.count : self.count + len(data)] = data
            self.count += len(data)

    async def carried_out(self, work: Callable[[], T]) -> T:
        """The result of `work`, done in a thread. If this is cancelled, the thread has let go of the buffers first."""
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
            self._stopped.set()
            await asyncio.wait([waiting])  # as long as the connection's own time limit, at the most
            if not waiting.cancelled():
                waiting.exception()  # nobody asks for it
            raise

    def _check(self) -> None:
        if self._stopped.is_set():
            raise Stopped
