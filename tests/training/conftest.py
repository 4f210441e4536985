"""Worlds of training processes, started once for all tests that use them one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.training_world import TrainingWorld


class Worlds:
    """Worlds by their size."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._worlds: dict[int, TrainingWorld] = {}
        self._ours: dict[int, bool] = {}
        self._started = 0

    def get(self, size: int, ours: bool = False) -> TrainingWorld:
        """Return a world of this size, and start it first if there is none.

        ours: with the strategy of `holdfast.keras`. A process cannot have two: their collectives would meet.
        """
        if size in self._worlds and (self._worlds[size].failed or self._ours[size] != ours):
            self.end(size)
        if size not in self._worlds:
            self._started += 1
            environments = [{"STRATEGY": "holdfast" if ours else "tensorflow"}] * size
            self._worlds[size] = TrainingWorld(size, self._logs / f"{self._started}-world-of-{size}", environments)
            self._ours[size] = ours
        return self._worlds[size]

    def fresh(self, size: int, ours: bool = False) -> TrainingWorld:
        """Return a world in which no scenario has run. Collectives of one that has made a MirroredStrategy would meet
        those of the next."""
        self.end(size)
        return self.get(size, ours)

    def end(self, size: int) -> None:
        """End one, if there is one, as a cluster manager does when a worker was lost."""
        if size in self._worlds:
            self._worlds.pop(size).close()

    def close(self) -> None:
        for size in list(self._worlds):
            self.end(size)


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    worlds = Worlds(tmp_path_factory.mktemp("logs"))
    yield worlds
    worlds.close()
