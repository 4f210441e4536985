"""An asyncio event loop whose callbacks are items of the scheduler, one after the other as asyncio promises."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import copy_context
from typing import Any

from simulation.processes import Process
from simulation.scheduler import Item


class Loop(asyncio.AbstractEventLoop):
    """The loop of one process. `broken` is told of what nobody else hears of."""

    def __init__(self, process: Process, broken: Callable[[str], None]) -> None:
        self._process = process
        self._scheduler = process.scheduler
        self._broken = broken
        self._callbacks: deque[Item] = deque()
        self._tasks: list[asyncio.Task[Any]] = []  # and some that are done
        process.loop = self

    # -- what asyncio asks of a loop --

    def time(self) -> float:
        return self._process.monotonic()

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        # A task's callbacks come with its own context: what one call has proven is no other's.
        item = Item(self._process, (context or copy_context()).run, (callback, *args), 0.0)
        if self._process.alive:
            self._callbacks.append(item)
            if len(self._callbacks) == 1:
                self._scheduler.soon(self._process, self._run)
        return item

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        run = (context or copy_context()).run
        return self._scheduler.later(self._process, delay, self.call_soon, run, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        return self.call_later(when - self.time(), callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], *, name: Any = None, context: Any = None) -> Any:
        if len(self._tasks) > 100:
            self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(asyncio.Task(coro, loop=self, name=name))
        return self._tasks[-1]

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> Any:
        assert executor is not None, "the default executor has threads that are no greenlets"
        return asyncio.wrap_future(executor.submit(func, *args), loop=self)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self._process.alive:
            self._broken(f"{self._process}: {context.get('message')}: {context.get('exception')!r}")

    # -- running --

    def _run(self) -> None:
        """One turn, on a thread that can be preempted if others can."""
        if self._scheduler.preempts:
            self._process.run("loop", self._turn)
        else:
            self._turn()

    def _turn(self) -> None:
        """Run what is ready at the beginning of this turn."""
        callbacks = self._callbacks
        events._set_running_loop(self)
        try:
            for _ in range(len(callbacks)):
                if not self._process.alive:
                    return
                # It stays in the queue while it runs, so that what it adds does not begin another turn.
                item = callbacks[0]
                if not item.dropped:
                    try:
                        item.callback(*item.args)
                    except Exception as error:
                        self.call_exception_handler({"message": f"{item.callback} failed", "exception": error})
                callbacks.popleft()
        finally:
            events._set_running_loop(None)
        if callbacks:
            self._scheduler.soon(self._process, self._run)

    def tasks(self) -> list[str]:
        """Return the tasks that have not ended."""
        return [f"the task {task.get_coro()}" for task in self._tasks if not task.done()]

    def unwind(self) -> None:
        """End the coroutines of a dead process, as the end of the interpreter would, and nobody hears of it."""
        events._set_running_loop(self)
        try:
            while self._tasks:
                task = self._tasks.pop()
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    _close(task.get_coro())
            self._callbacks.clear()
        finally:
            events._set_running_loop(None)


def _close(coroutine: Any) -> None:
    for _ in range(20):
        try:
            coroutine.close()
        except RuntimeError:  # it waits again on its way out
            continue
        except BaseException:
            pass
        return
