"""All contestants of a case, round by round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.contestants import LABELS
from benchmarks.process import ContestantProcess, TurnFailed
from benchmarks.results import Failure, Figures, Results


class Race:
    """Takes the rounds of a case on every medium and adds what was measured to `results`.

    A contestant that fails is out for the rest of the case, and is listed under the failures; the others go on.
    """

    def __init__(self, case: Case, media: Mapping[str, Path], results: Results, say: Callable[[str], None]) -> None:
        self._case = case
        self._media = media
        self._results = results
        self._say = say
        self._processes: dict[str, ContestantProcess] = {}

    def run(self) -> None:
        """Warm every contestant up, take all rounds, and end the processes."""
        try:
            for name in LABELS:
                self._processes[name] = ContestantProcess(name, self._case)
                # Before the next one starts, so that no warm-up runs beside another.
                self._turn(name, next(iter(self._media)), 0)
            for number in range(1, self._results.rounds + 1):
                for medium in self._media:
                    for name in list(self._processes):
                        self._turn(name, medium, number)
        finally:
            for process in self._processes.values():
                process.stop()

    def _turn(self, name: str, medium: str, number: int) -> None:
        case = self._case.name
        where = f"{case}, {medium}, {f'round {number}' if number else 'warm-up'}: {LABELS[name]}"
        try:
            values = self._processes[name].take_turn(self._media[medium], number)
        except TurnFailed as failure:
            self._results.failures.append(Failure(case, medium, name, number, str(failure)))
            self._processes.pop(name).stop()
            self._say(f"{where} is out: {failure}")
            return
        self._results.turns.append(Figures(case, medium, name, number, values))
        self._say(f"{where}: " + ", ".join(f"{figure} {value:.4g}" for figure, value in values.items()))
