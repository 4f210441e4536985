"""A contestant in a process of its own, which takes a turn when told to."""

from __future__ import annotations

import multiprocessing
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.cases import Case


class TurnFailed(Exception):
    """The contestant could not take its turn; the message is its last line of error."""


class ContestantProcess:
    """Starts a process that builds the training job and the contestant, and waits there without using a processor."""

    def __init__(self, name: str, case: Case) -> None:
        # Spawned, not forked: nothing of one contestant may be in the memory of another.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, case), daemon=True)
        self._process.start()
        theirs.close()

    def take_turn(self, medium: Path, number: int) -> dict[str, float]:
        """The figures of one turn.

        Raises:
            TurnFailed: with the reason; the process is of no use afterwards.
        """
        try:
            self._connection.send((medium, number))
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise TurnFailed(f"the process ended with exit code {self._process.exitcode}") from error
        if isinstance(answer, str):
            raise TurnFailed(answer)
        figures: dict[str, float] = answer
        return figures

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(timeout=30)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(connection: Connection, name: str, case: Case) -> None:
    from benchmarks.contestants import create
    from benchmarks.training import Training
    from benchmarks.turn import Turn

    turn: Turn | None = None
    while True:
        try:
            medium, number = connection.recv()
        except EOFError:
            return
        try:
            turn = turn or Turn(create(name, Training(case)))
            connection.send(turn.take(medium, number))
        except Exception as error:
            traceback.print_exc()
            connection.send(f"{type(error).__name__}: {error}")
            return
