"""All contestants of a case, round by round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from benchmarks.cases import Case
from benchmarks.process import TurnFailed
from benchmarks.results import Failure, Figures, Results


class Contender(Protocol):
    """A contestant with its processes."""

    def take_turn(self, place: Any, number: int, /) -> dict[str, float]:
        """The figures of one turn; number 0 is the warm-up. Raises TurnFailed."""
        ...

    def stop(self) -> None:
        """End the processes."""
        ...


class Race:
    """Takes the rounds of a case on every medium and adds what was measured to `results`.

    A contestant that fails is out for the rest of the case, and is listed under the failures; the others go on.

    media: by name, the place where a turn is taken.
    start: makes a contestant ready.
    """

    def __init__(
        self,
        case: Case,
        media: Mapping[str, Any],
        results: Results,
        start: Callable[[str], Contender],
        say: Callable[[str], None],
    ) -> None:
        self._case = case
        self._media = media
        self._results = results
        self._start = start
        self._say = say
        self._running: dict[str, Contender] = {}

    def run(self) -> None:
        """Warm every contestant up, take all rounds, and end the processes."""
        try:
            for name in self._results.contestants.labels:
                if name in self._results.absent:
                    continue
                self._running[name] = self._start(name)
                # Before the next one starts, so that no warm-up runs beside another.
                self._turn(name, next(iter(self._media)), 0)
            for number in range(1, self._results.rounds + 1):
                for medium in self._media:
                    for name in list(self._running):
                        self._turn(name, medium, number)
        finally:
            for contender in self._running.values():
                contender.stop()

    def _turn(self, name: str, medium: str, number: int) -> None:
        case, label = self._case.name, self._results.contestants.labels[name]
        where = f"{case}, {medium}, {f'round {number}' if number else 'warm-up'}: {label}"
        try:
            values = self._running[name].take_turn(self._media[medium], number)
        except TurnFailed as failure:
            self._results.failures.append(Failure(case, medium, name, number, str(failure)))
            self._running.pop(name).stop()
            self._say(f"{where} is out: {failure}")
            return
        self._results.turns.append(Figures(case, medium, name, number, values))
        self._say(f"{where}: " + ", ".join(f"{figure} {value:.4g}" for figure, value in values.items()))
