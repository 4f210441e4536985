"""The coordinator inside a training process, as `holdfast_coordinator.embedded`, on that process's simulated loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from holdfast_coordinator.server import Server
from simulation.fakes import Now, here
from simulation.processes import Process
from simulation.scheduler import Waiter


class Embedded:
    """`acquire()` and `release()`, one for all managers of a process."""

    _shared: ClassVar[WeakKeyDictionary[Process, Embedded]] = WeakKeyDictionary()

    def __init__(self, host: str) -> None:
        self.host = host
        self._holders = 0
        self._process = here()
        self.server = Server()
        self.run(self.server.start(f"{host}:0" if host else "", embedded=True), 30.0)

    @classmethod
    def acquire(cls, host: str) -> Embedded:
        process = here()
        if process not in cls._shared:
            cls._shared[process] = cls(host)
        cls._shared[process]._holders += 1
        return cls._shared[process]

    def release(self, patience: float) -> None:
        self._holders -= 1
        if self._holders:
            return
        del self._shared[self._process]
        self.run(self.server.stop(patience), patience + 5.0)

    def run(self, coroutine: Coroutine[Any, Any, Any], timeout: float | None) -> Any:
        """Run something on the coordinator's loop and wait for it. TimeoutError after so many seconds."""
        loop = self._process.loop
        assert loop is not None
        if not self._process.alive:
            coroutine.close()
        self._process.check_alive()
        task: asyncio.Task[Any] = loop.create_task(coroutine)
        waiters: list[Waiter] = []
        task.add_done_callback(lambda _: [waiter.wake() for waiter in waiters])
        Now.scheduler.block("the coordinator in this process", timeout, waiters.append)
        if not task.done():
            loop.call_soon(task.cancel)
            raise TimeoutError
        if task.cancelled():
            raise CancelledError
        return task.result()
