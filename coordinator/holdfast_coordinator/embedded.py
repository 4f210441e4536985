"""A coordinator inside a training process: one for all its managers, on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from .server import Server

T = TypeVar("T")

START_WITHIN = 30.0


class Embedded:
    """Use `acquire()` and `release()`: it runs as long as somebody holds it."""

    _shared: Embedded | None = None
    _lock = threading.Lock()

    def __init__(self, host: str) -> None:
        self.host = host
        self._holders = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="holdfast-coordinator", daemon=True)
        self._thread.start()
        self.server = Server()
        try:
            self.run(self.server.start(f"{host}:0"), START_WITHIN)
        except BaseException:
            self._end()
            raise

    @classmethod
    def acquire(cls, host: str) -> Embedded:
        """The coordinator of this process, listening on `host`; started if there is none."""
        with cls._lock:
            if cls._shared is None:
                cls._shared = cls(host)
            cls._shared._holders += 1
            return cls._shared

    def release(self, patience: float) -> None:
        """Give it back; the last holder ends it, waiting so many seconds for what is going on."""
        with self._lock:
            self._holders -= 1
            if self._holders:
                return
            Embedded._shared = None
        try:
            self.run(self.server.stop(patience), patience + 5.0)
        finally:
            self._end()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None) -> T:
        """Run something on the coordinator's loop and wait for it. TimeoutError after so many seconds."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise

    def tell(self, callback: Any, *args: Any) -> None:
        self._loop.call_soon_threadsafe(callback, *args)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        if not self._thread.is_alive():
            self._loop.close()
