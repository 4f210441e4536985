"""All the orders in which a few threads may run, up to a number of preemptions: for small things that must be right.

The order is not drawn but chosen, by a search in depth: at each place (`simulation.preemption`) whether the thread goes
on, and wherever somebody else is to run, who. Everything else is as in any other simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from types import ModuleType
from typing import TypeVar
from unittest import mock

import greenlet

from simulation.fakes import Now
from simulation.preemption import Instrumented
from simulation.processes import Process
from simulation.training import fresh
from simulation.world import World

T = TypeVar("T")


class _Choices:
    """One way through, and the next one."""

    def __init__(self) -> None:
        self._path: list[int] = []
        self._widths: list[int] = []
        self._at = 0

    def choose(self, width: int) -> int:
        if width == 1:
            return 0
        if self._at == len(self._path):
            self._path.append(0)
            self._widths.append(width)
        assert self._widths[self._at] == width, "another way than before, with the same choices"
        self._at += 1
        return self._path[self._at - 1]

    def next(self) -> bool:
        """Begin another schedule, and return whether there is one."""
        self._at = 0
        while self._path:
            self._path[-1] += 1
            if self._path[-1] < self._widths[-1]:
                return True
            self._path.pop()
            self._widths.pop()
        return False


class _Chosen:
    """Stands for the scheduler's random numbers: who runs next."""

    def __init__(self, world: World, choices: _Choices) -> None:
        self._scheduler, self._choices = world.scheduler, choices

    def random(self) -> float:
        width = len(self._scheduler._ready)
        return (self._choices.choose(width) + 0.5) / width


def every_schedule(
    modules: Iterable[ModuleType], preemptions: int, program: Callable[[Process], None], seconds: float = 100.0
) -> int:
    """Run a program in a process of its own, once for each schedule; the number of these.

    modules: whose functions have places. preemptions: at most so many in one run. Inside `patches.installed()`.
    """
    functions, choices, count = Instrumented(modules), _Choices(), 0
    while True:
        count += 1
        world = fresh(World(0))
        process = world.process("process", "host")
        world.scheduler.random = _Chosen(world, choices)  # type: ignore[assignment]
        world.scheduler.preempts = True
        ended: list[BaseException | None] = []
        left = [preemptions]

        def main(process: Process = process, ended: list[BaseException | None] = ended) -> None:
            try:
                program(process)
                ended.append(None)
            except Exception as error:
                ended.append(error)

        def ask(value: T = None, left: list[int] = left) -> T:  # type: ignore[assignment]
            scheduler = Now.scheduler
            here = scheduler.current is not None and greenlet.getcurrent() is not scheduler.hub
            if left[0] and here and scheduler._ready and choices.choose(2):
                left[0] -= 1
                scheduler.pause(0.0, "its turn", preempted=True)
            return value

        with functions.asking(ask), mock.patch.object(Now, "place", ask):
            process.spawn("main", main)
            world.run(partial(bool, ended), seconds)
            waits = world.waits()
            left[0] = 0
            world.close()
        if not ended or ended[0] is not None:
            raise AssertionError(f"schedule {count} ({choices._path}): {ended or 'has not ended'}\n{waits}") from (
                ended[0] if ended else None
            )
        world.forget()
        if not choices.next():
            return count
