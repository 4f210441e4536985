"""A coordinator inside a training process: one for all its managers, on its own thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from typing import Any, ClassVar, TypeVar

from holdfast_storage.errors import InvalidRequest
from holdfast_storage.logger import logger

from .server import Server

log = logger("holdfast.coordinator")

T = TypeVar("T")

START_WITHIN = 30.0


class Embedded:
    """The embedded coordinator. It runs between the first `acquire()` and the last `release()`."""

    _shared: ClassVar[dict[str, Embedded]] = {}  # by host
    _lock = threading.Lock()
    _inherited = False  # in a fork whose parent had a coordinator at that time

    def __init__(self, host: str) -> None:
        self.host = host
        self._holders = 0
        self.server = Server()
        begun: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=asyncio.run, args=(self._live(begun),), name="holdfast-coordinator", daemon=True
        )
        self._thread.start()
        self._loop = begun.result(START_WITHIN)
        try:
            self.run(self.server.start(f"{host}:0" if host else "", embedded=True), START_WITHIN)
        except BaseException:
            self._end()
            raise

    @classmethod
    def acquire(cls, host: str) -> Embedded:
        """Return the coordinator of this process, which listens on `host`. Start it if there is none. Without a host,
        only processes of this host reach it.

        Raises InvalidRequest in a fork of a process with a running coordinator: gRPC's server works on threads that a
        fork does not have.
        """
        if cls._inherited:
            raise InvalidRequest(
                "this process was forked from one that had a CheckpointManager open, and can have none of its own: "
                "start it by multiprocessing's 'spawn' or 'forkserver', or fork before the manager is made"
            )
        with cls._lock:
            if host not in cls._shared:
                cls._shared[host] = cls(host)
            cls._shared[host]._holders += 1
            return cls._shared[host]

    def release(self, patience: float) -> None:
        """Give the coordinator back. The last holder ends it, after up to `patience` seconds for what is going on."""
        with self._lock:
            self._holders -= 1
            if self._holders:
                return
            del self._shared[self.host]
        try:
            self.run(self.server.stop(patience), patience + 5.0)
        except TimeoutError:
            log.warning("the coordinator in this process did not end within %.0f s", patience + 5.0)
        finally:
            self._end()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None) -> T:
        """Run a coroutine on the coordinator's loop and wait for it, up to `timeout` seconds."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise TimeoutError from None

    async def _live(self, begun: concurrent.futures.Future[asyncio.AbstractEventLoop]) -> None:
        """Run until `_end()`. What is still going on then is cancelled, once gRPC has nothing more to say to it."""
        self._ended = asyncio.Event()
        begun.set_result(asyncio.get_running_loop())
        await self._ended.wait()
        await self.server.let_go()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(5.0)


def _start_anew() -> None:
    """Forget, in a fork, the parent's coordinator: its thread does not exist here."""
    Embedded._inherited |= bool(Embedded._shared)
    Embedded._shared = {}
    Embedded._lock = threading.Lock()


os.register_at_fork(after_in_child=_start_anew)
