"""Who trains in a demo: workers that mirror each other, or a cluster with parameter servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from holdfast.demo.compare import Comparison, compare_losses, compare_states
from holdfast.demo.processes import Fleet, Process


@dataclass(frozen=True, slots=True)
class Job:
    """The processes of a training job.

    trainers: who end when the training does; the others are ended then.
    """

    processes: list[Process]
    trainers: list[Process]
    victim: Process


class Cast(Protocol):
    """Who trains, and what two of their runs have in common. The first trainer's progress file is number 0."""

    @property
    def needs(self) -> Mapping[str, str]:
        """Modules that must be there, and the packages that have them."""
        ...

    @property
    def who(self) -> str: ...

    @property
    def trains(self) -> str:
        """What they do, after `who will`."""
        ...

    @property
    def victim(self) -> str: ...

    def start(self, fleet: Fleet, run: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Job:
        """Start a job of its own cluster on free local ports."""
        ...

    def compare(self, first: Path, second: Path) -> list[Comparison]:
        """Compare what two runs have left in their folders for results."""
        ...


class Workers:
    """Workers under MultiWorkerMirroredStrategy."""

    needs: Mapping[str, str] = {"tensorflow": "tensorflow", "sklearn": "scikit-learn", "matplotlib": "matplotlib"}
    trains = "train a small Keras model on the UCI handwritten digits"
    victim = "worker 1"

    def __init__(self, count: int) -> None:
        self._count = count
        self.who = f"{count} workers"

    def start(self, fleet: Fleet, run: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Job:
        workers = fleet.start_cluster({"worker": self._count}, run, "holdfast.demo.training", arguments, environment)
        return Job(workers, workers, workers[1])

    def compare(self, first: Path, second: Path) -> list[Comparison]:
        return [*compare_states(first, second, self._count), compare_losses(first, second, self._count)]


class Servers:
    """A chief, a worker and two parameter servers. One worker, since several train in an order that is never twice."""

    needs: Mapping[str, str] = {"tensorflow": "tensorflow", "tf_keras": "tf_keras", "matplotlib": "matplotlib"}
    trains = "train a small recommender, whose embeddings lie on the servers,"
    victim = "server 1"
    who = "A chief, a worker and 2 parameter servers"

    def start(self, fleet: Fleet, run: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Job:
        jobs = {"chief": 1, "worker": 1, "ps": 2}
        processes = fleet.start_cluster(jobs, run, "holdfast.demo.recommender", arguments, environment)
        return Job(processes, processes[:1], processes[-1])

    def compare(self, first: Path, second: Path) -> list[Comparison]:
        return [compare_losses(first, second, 1)]
