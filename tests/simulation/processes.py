"""Processes: greenlets and an event loop that live, stop and die together, with clocks and a host of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import greenlet

from simulation.scheduler import Item, Scheduler, Waiter

if TYPE_CHECKING:
    from simulation.loop import Loop

WALL = 1_700_000_000.0


class Died(greenlet.GreenletExit):
    """Ends what a killed process was doing. Whatever it still tries on its way out has no effect."""


class Memory:
    """What a process knows about itself in its memory. A fork has its parent's."""

    def __init__(self, secrets: dict[object, bytes] | None = None, managers: int = 0) -> None:
        self.secrets = secrets or {}
        self.managers = managers

    def forked(self) -> Memory:
        return Memory(dict(self.secrets), self.managers)


class Process:
    """One process of the simulated cluster.

    Attributes:
        alive: False from the instant of its SIGKILL on: nothing of it ever runs again.
        stopped: between SIGSTOP and SIGCONT; what it was to do waits in `parked`.
        base: its monotonic clock at virtual time 0: that of another process says nothing here.
        wall_offset: seconds by which its wall clock is wrong.
        waiting: its greenlets that wait, and for what.
        main: the one that handles signals.
        signals: handlers that are to run there, as soon as may be.
        at_end: called when it has died, however it did.
    """

    def __init__(self, scheduler: Scheduler, name: str, host: str) -> None:
        self.name = name
        self.host = host
        self.scheduler = scheduler
        self.alive = True
        self.stopped = False
        self.stopped_for = 0.0
        self.parked: list[Item] = []
        self.waiting: dict[greenlet.greenlet, Waiter] = {}
        self.main: greenlet.greenlet | None = None
        self.signals: list[Callable[[], object]] = []
        self.masks_signals = False
        self.signalled = False
        self.memory = Memory()
        self.program: Any = None
        self.base = 1000.0 * scheduler.random.random()
        self.wall_offset = 0.0
        self.loop: Loop | None = None
        self.store: Any = None
        self.this_task: Any = None
        self.model: Any = None
        self.server: Any = None
        self.starting: Any = None
        self.at_end: list[Callable[[], None]] = []
        self.can_start_threads: Callable[[], bool] = lambda: True
        self._greenlets: dict[greenlet.greenlet, str] = {}
        self._stopped_at = 0.0

    def __repr__(self) -> str:
        return self.name

    # -- what runs in it --

    def spawn(self, name: str, target: Callable[..., object], *args: Any) -> greenlet.greenlet:
        """Begin a thread."""
        thread = self._thread(name, target, *args)
        self.scheduler.soon(self, thread.switch)
        return thread

    def run(self, name: str, target: Callable[..., object], *args: Any) -> None:
        """Run something as a thread from now on, at once; returns when that waits or has ended."""
        self._thread(name, target, *args).switch()

    def _thread(self, name: str, target: Callable[..., object], *args: Any) -> greenlet.greenlet:
        def live() -> None:
            try:
                target(*args)
            except BaseException:
                if self.alive:  # else it is whatever has become of `Died`
                    raise
            finally:
                del self._greenlets[thread]

        thread = greenlet.greenlet(live, parent=self.scheduler.hub)
        self._greenlets[thread] = name
        return thread

    @property
    def threads(self) -> list[str]:
        """The names of those that there are."""
        return list(self._greenlets.values())

    def name_of(self, thread: greenlet.greenlet | None) -> str:
        return self._greenlets.get(thread, "somebody") if thread is not None else "nobody"

    def check_alive(self) -> None:
        if not self.alive:
            raise Died

    # -- its clocks --

    def monotonic(self) -> float:
        return self.base + self.scheduler.now

    def wall(self) -> float:
        return WALL + self.scheduler.now + self.wall_offset

    # -- signals --

    def kill(self) -> None:
        """SIGKILL. May be called from anywhere; a thread of the process that calls it ends with this call."""
        if not self.alive:
            return
        self.alive = False
        self.parked.clear()
        for call in self.at_end:
            call()
        self.scheduler.urgent.append(self._unwind)
        if self.scheduler.current is self and greenlet.getcurrent() is not self.scheduler.hub:
            raise Died

    def signal(self, handler: Callable[[], object]) -> None:
        """Run a handler in the main thread, where it waits or before it goes on."""
        if self.masks_signals or not self.alive:
            return
        self.signals.append(handler)
        waiter = self.waiting.get(self.main) if self.main is not None else None
        if waiter is not None:
            waiter.look()

    def handle_signals(self) -> None:
        while self.signals and self.alive:
            handler = self.signals.pop(0)
            if not self.masks_signals:
                self.signalled = True
                handler()

    def stop(self) -> None:
        """SIGSTOP."""
        if self.alive and not self.stopped:
            self.stopped, self._stopped_at = True, self.scheduler.now

    def resume(self) -> None:
        """SIGCONT."""
        if self.stopped:
            self.stopped = False
            self.stopped_for += self.scheduler.now - self._stopped_at
            parked, self.parked = self.parked, []
            for item in parked:
                self.scheduler.again(item)

    def _unwind(self) -> None:
        """Give back what the Python objects of the dead process hold: files, frames, coroutines."""
        self.scheduler.current = self
        for thread in list(self._greenlets):
            if thread:
                thread.throw(Died)
            else:  # never begun
                self._greenlets.pop(thread, None)
        if self.loop is not None:
            self.loop.unwind()
        self.waiting.clear()
        self.scheduler.current = None

    # -- for people --

    def waits(self) -> list[str]:
        """Return what each of the threads waits for."""
        state = "dead" if not self.alive else "stopped" if self.stopped else ""
        lines = [f"{self.name}: {state}"] if state else []
        for thread, waiter in self.waiting.items():
            lines.append(f"{self.name}: {self.name_of(thread)} waits for {waiter.why}")
        return lines
