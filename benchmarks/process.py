"""A contestant in a process of its own, which does what it is told."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

PATIENCE = 900.0
"""Seconds for one thing that is told: many times what the slowest takes."""


class TurnFailed(Exception):
    """The contestant could not take its turn; the message is its last line of error."""


class ContestantProcess:
    """Starts a process that makes an object and calls its methods, and waits there without using a processor.

    make: can be pickled; called in the process, before the first method.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        # Spawned, not forked: nothing of one contestant may be in the memory of another.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make), daemon=True)
        self._process.start()
        theirs.close()

    def take_turn(self, medium: Path, number: int) -> dict[str, float]:
        """The figures of one turn of a `Turn`. Raises TurnFailed."""
        self.tell("take", medium, number)
        figures: dict[str, float] = answers([self])[0]
        return figures

    def tell(self, method: str, *arguments: Any) -> None:
        """Start a call of a method; `answers` has what it returns."""
        try:
            self.connection.send((method, arguments))
        except OSError as error:
            raise self._ended() from error

    def answer(self) -> Any:
        """Return what the method returned. Raises TurnFailed with what it raised; the process is then of no use."""
        try:
            returned, raised = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if raised:
            raise TurnFailed(raised)
        return returned

    def stop(self) -> None:
        """End the process."""
        self.connection.close()
        self._process.join(timeout=30)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        self._process.kill()
        self._process.join()
        self.connection.close()

    @property
    def pid(self) -> int:
        """The process's."""
        assert self._process.pid is not None
        return self._process.pid

    def _ended(self) -> TurnFailed:
        self._process.join()
        return TurnFailed(f"the process ended with exit code {self._process.exitcode}")


def answers(processes: Sequence[ContestantProcess]) -> list[Any]:
    """Return what all of them answer. Raises TurnFailed as soon as one has failed: the others may wait for it."""
    returned: dict[ContestantProcess, Any] = {}
    waiting = {process.connection: process for process in processes}
    end = time.monotonic() + PATIENCE
    while waiting:
        ready = wait(list(waiting), max(0.0, end - time.monotonic()))
        if not ready:
            raise TurnFailed(f"no answer within {PATIENCE:.0f} s")
        for connection in ready:
            process = waiting.pop(connection)  # type: ignore[call-overload]
            returned[process] = process.answer()
    return [returned[process] for process in processes]


def _serve(connection: Connection, make: Callable[[], Any]) -> None:
    made: Any = None
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            made = made or make()
            connection.send((getattr(made, method)(*arguments), ""))
        except Exception as error:
            traceback.print_exc()
            connection.send((None, f"{type(error).__name__}: {error}"))
            return
