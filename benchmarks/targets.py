"""What Holdfast has to reach at least, and whether a run shows it. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.results import Results

_US = "holdfast"


@dataclass(frozen=True)
class Target:
    """A bound on a median of Holdfast's, relative to a contestant's or absolute.

    Attributes:
        what: in words.
        case: of which case.
        figure: Holdfast's figure.
        at_most: the bound, times the other's median, or in the figure's own unit where there is no other.
        other: contestant to compare with.
        other_figure: figure of the other, where it is not the same one.
    """

    what: str
    case: str
    figure: str
    at_most: float
    other: str | None = None
    other_figure: str | None = None


TARGETS = (
    Target("save to durable, at least 2.0 x as fast as TensorFlow", "large", "durable", 1 / 2.0, "tensorflow"),
    Target("training time lost per save, at most 5 % of TensorFlow sync's", "large", "lost", 0.05, "tensorflow"),
    Target("training time lost per save, no worse than TensorFlow async's", "large", "lost", 1.0, "tensorflow_async"),
    Target(
        "snapshot of 5,000 small variables, at most 0.5 of TensorFlow's write",
        "small",
        "blocking",
        0.5,
        "tensorflow",
        "blocking",
    ),
    Target("restore, at least 0.95 x as fast as TensorFlow's", "large", "restore", 1 / 0.95, "tensorflow"),
    Target("memory of our own while saving, at most 256 MiB", "large", "extra_bytes", 256 * 2**20),
)


@dataclass(frozen=True)
class Verdict:
    """A target on one medium: both medians in the figure's unit, and whether it is met (None: not measured)."""

    target: Target
    medium: str
    ours: float | None
    bound: float | None

    @property
    def met(self) -> bool | None:
        """Whether our median is within the bound."""
        if self.ours is None or self.bound is None:
            return None
        return self.ours <= self.bound


def verdicts(results: Results) -> Iterator[Verdict]:
    """Each target of a case that was run, on each medium."""
    names = {case.name for case in results.cases}
    for target in TARGETS:
        if target.case not in names:
            continue
        for medium in results.media:
            ours = results.summary(target.case, medium, _US, target.figure)
            bound: float | None = target.at_most
            if target.other is not None:
                figure = target.other_figure or target.figure
                theirs = results.summary(target.case, medium, target.other, figure)
                bound = None if theirs is None else target.at_most * theirs.median
            yield Verdict(target, medium, None if ours is None else ours.median, bound)
