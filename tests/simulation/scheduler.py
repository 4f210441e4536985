"""One thread that runs everything, in an order drawn from a seed, in virtual time.

What can happen next are *items*: a callback of a process. The scheduler picks one of those that are ready; when none
is, it moves the clock to the next timer. What is a thread in production is a greenlet here, which gives the word back
when it would block (`Scheduler.block`); an asyncio loop runs its callbacks as items (`simulation.loop`).
"""

from __future__ import annotations

import heapq
import random
from asyncio import events
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import greenlet

if TYPE_CHECKING:
    from simulation.processes import Process

BUSY = 20_000
"""Items that may run at one moment of virtual time: more is a loop that waits for something without waiting."""


class Item:
    """A callback that is to run. Stands in for asyncio's handles as well."""

    __slots__ = ("args", "callback", "dropped", "process", "time")

    def __init__(self, process: Process | None, callback: Callable[..., object], args: tuple[Any, ...], time: float):
        self.process = process
        self.callback = callback
        self.args = args
        self.time = time
        self.dropped = False

    def cancel(self) -> None:
        self.dropped = True
        self.args = ()

    def cancelled(self) -> bool:
        return self.dropped

    def when(self) -> float:
        return self.time


class Waiter:
    """A greenlet that waits, and for what."""

    __slots__ = ("greenlet", "process", "result", "scheduler", "why", "woken")

    def __init__(self, scheduler: Scheduler, process: Process, thread: greenlet.greenlet, why: object) -> None:
        self.scheduler, self.process, self.greenlet, self.why = scheduler, process, thread, why
        self.woken = False
        self.result = False

    def wake(self, result: bool = True) -> None:
        """Let it go on, with this answer to its `block`. The first word counts."""
        if not self.woken:
            self.woken, self.result = True, result
            self.look()

    def look(self) -> None:
        """Let it look whether it is woken, or has a signal."""
        self.scheduler.soon(self.process, self._go)

    def _go(self) -> None:
        # Unless it does not wait for this any more, or a signal handler waits for something else meanwhile.
        if self.process.waiting.get(self.greenlet) is self:
            self.greenlet.switch()


class Scheduler:
    """The order of things."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.steps = 0
        self.current: Process | None = None
        self.hub = greenlet.getcurrent()
        self.urgent: list[Callable[[], None]] = []  # to be done before anything else runs
        self.preempts = False  # threads are preempted, those of event loops as well
        self.held = 0  # but nobody as long as this is not 0
        self.noted = True  # something has happened that a condition of `run` may be about
        self._ready: list[Item] = []
        self._timers: list[tuple[float, int, Item]] = []
        self._count = 0

    # -- what is to run --

    def soon(self, process: Process | None, callback: Callable[..., object], *args: Any) -> Item:
        item = Item(process, callback, args, self.now)
        self._ready.append(item)
        return item

    def again(self, item: Item) -> None:
        """Queue again what could not run while its process was stopped."""
        self._ready.append(item)

    def later(self, process: Process | None, seconds: float, callback: Callable[..., object], *args: Any) -> Item:
        if seconds <= 0:
            return self.soon(process, callback, *args)
        item = Item(process, callback, args, self.now + seconds)
        self._count += 1
        heapq.heappush(self._timers, (item.time, self._count, item))
        return item

    # -- waiting --

    def block(
        self,
        why: object,
        seconds: float | None = None,
        register: Callable[[Waiter], object] | None = None,
        *,
        brief: bool = False,
    ) -> bool:
        """Have the current greenlet wait until it is woken; False if that took longer than so many seconds.

        A signal handler of its process may run meanwhile, if it is the main thread's, and what it raises comes from
        here.

        why: for whoever asks who waits for whom; made a string when it is told.
        register: is given the waiter, so that somebody can wake it.
        brief: an event loop may wait for it as well, if its threads can be preempted.
        """
        process, thread = self.current, greenlet.getcurrent()
        assert process is not None
        process.check_alive()
        loop = events._get_running_loop()
        if thread is self.hub or (loop is not None and not brief):
            raise AssertionError(f"{process}: the event loop blocks on {why}")
        waiter = Waiter(self, process, thread, why)
        if register is not None:
            register(waiter)
        timer = self.later(process, seconds, waiter.wake, False) if seconds is not None else None
        outer = process.waiting.get(thread)
        process.waiting[thread] = waiter
        if loop is not None:
            events._set_running_loop(None)
        try:
            while True:
                self.hub.switch()
                if process.signals and thread is process.main:
                    process.handle_signals()
                if waiter.woken:
                    break
        finally:
            waiter.woken = True
            if outer is None:
                process.waiting.pop(thread, None)
            else:
                process.waiting[thread] = outer
            if timer is not None:
                timer.cancel()
            if loop is not None:
                events._set_running_loop(loop)
        process.check_alive()
        return waiter.result

    def pause(self, seconds: float, why: object, *, preempted: bool = False) -> None:
        """Let the current greenlet wait for so long; with 0, let others go first, perhaps."""
        if seconds > 0:
            self.block(why, seconds, brief=preempted)
        else:
            self.block(why, None, Waiter.wake, brief=preempted)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """A context in which nobody is preempted, since it is no part of the product."""
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1

    # -- running --

    def run(self, until: Callable[[], bool], end: float) -> None:
        """Run until a condition holds, or the clock reaches `end`.

        The condition is looked at when `noted` has been set.
        """
        assert greenlet.getcurrent() is self.hub
        ready, timers, draw = self._ready, self._timers, self.random.random
        at_once = 0
        self.noted = True
        while True:
            self.current = None
            while self.urgent:
                self.urgent.pop(0)()
            if self.noted:
                self.noted = False
                if until():
                    return
            if not ready:
                while timers and timers[0][2].dropped:
                    heapq.heappop(timers)
                if not timers or timers[0][0] > end:
                    self.now = end
                    return
                self.now, at_once = timers[0][0], 0
                while timers and timers[0][0] <= self.now:
                    ready.append(heapq.heappop(timers)[2])
            index = int(draw() * len(ready))
            item = ready[index]
            ready[index] = ready[-1]
            ready.pop()
            if item.dropped:
                continue
            process = item.process
            if process is not None:
                if not process.alive:
                    continue
                if process.stopped:
                    process.parked.append(item)
                    continue
            self.current = process
            self.steps += 1
            at_once += 1
            assert at_once < BUSY, f"{process} is busy for ever: {item.callback} {item.args}"
            item.callback(*item.args)
