"""The results of a run: every turn's figures as they were measured, and medians of them. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from benchmarks.cases import Case
from benchmarks.contestants import FILES, Field

# Figures of a fresh process: only its first turn, the warm-up, can measure them.
MEMORY = frozenset({"extra_bytes", "extra_training_bytes", "save_bytes", "restore_bytes"})


@dataclass(frozen=True)
class Figures:
    """The figures of one contestant in one turn. `round` 0 is the warm-up, whose times are in no median."""

    case: str
    medium: str
    contestant: str
    round: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Failure:
    """A contestant that was out from this turn on, and why."""

    case: str
    medium: str
    contestant: str
    round: int
    reason: str


@dataclass(frozen=True)
class Summary:
    """Median and extremes over the rounds."""

    median: float
    lowest: float
    highest: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary | None:
        """The summary of some values; None of none."""
        if not values:
            return None
        return cls(median(values), min(values), max(values), len(values))


@dataclass
class Results:
    """Everything that the report is made from."""

    environment: Mapping[str, str]
    cases: Sequence[Case]
    media: Mapping[str, str]
    rounds: int
    quick: bool = False
    contestants: Field = FILES
    absent: Mapping[str, str] = field(default_factory=dict)  # contestant -> why it does not run
    turns: list[Figures] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def summary(self, case: str, medium: str, contestant: str, figure: str) -> Summary | None:
        """Over the rounds, without the warm-up, which is where memory is measured; None where nothing was measured."""
        return Summary.of(
            [
                turn.values[figure]
                for turn in self.turns
                if (turn.case, turn.medium, turn.contestant) == (case, medium, contestant)
                and (turn.round == 0) == (figure in MEMORY)
                and figure in turn.values
            ]
        )

    def ratio(self, case: str, medium: str, figure: str, contestant: str, reference: str) -> float | None:
        """Median of the contestant over median of the reference.

        None where one of them is missing, or where the reference is not above zero: a lost time can be measured as zero
        or less, and a ratio to that says nothing.
        """
        ours = self.summary(case, medium, contestant, figure)
        theirs = self.summary(case, medium, reference, figure)
        if ours is None or theirs is None or theirs.median <= 0:
            return None
        return ours.median / theirs.median

    def lost_noise(self, case: Case, medium: str) -> float | None:
        """Return by how much a lost time can be wrong, in seconds for each save.

        Half the distance between the quartiles of the loop without saves, which is the same work for all contestants,
        divided as the lost time is. A lost time below it is not told from nothing.
        """
        loops = sorted(
            turn.values["loop"]
            for turn in self.turns
            if (turn.case, turn.medium) == (case.name, medium) and turn.round > 0 and "loop" in turn.values
        )
        if len(loops) < 4:
            return None
        return (loops[(3 * len(loops)) // 4] - loops[len(loops) // 4]) / 2 / case.saves

    def as_json(self) -> dict[str, Any]:
        """All of it, warm-up turns apart from the others."""
        return {
            "environment": dict(self.environment),
            "media": dict(self.media),
            "rounds": self.rounds,
            "quick": self.quick,
            "storage": self.contestants.name,
            "absent": dict(self.absent),
            "cases": [asdict(case) for case in self.cases],
            "warmup": [asdict(turn) for turn in self.turns if turn.round == 0],
            "turns": [asdict(turn) for turn in self.turns if turn.round > 0],
            "failures": [asdict(failure) for failure in self.failures],
        }
