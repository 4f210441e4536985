"""What Holdfast has to reach at least, and whether a run shows it. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.contestants import LABELS
from benchmarks.results import Results

_US = "holdfast"
_LIMIT = "raw"


@dataclass(frozen=True)
class Target:
    """A bound on a median of Holdfast's, relative to a contestant's or absolute.

    Attributes:
        what: in words.
        case: of which case.
        figure: Holdfast's figure.
        at_most: the bound, times the other's median, or in the figure's own unit where there is no other.
        other: contestant to compare with.
    """

    what: str
    case: str
    figure: str
    at_most: float
    other: str | None = None


TARGETS = (
    Target("save to durable, at least 2.0 x as fast as TensorFlow", "large", "durable", 1 / 2.0, "tensorflow"),
    Target("training time lost per save, at most 5 % of TensorFlow sync's", "large", "lost", 0.05, "tensorflow"),
    Target("training time lost per save, no worse than TensorFlow async's", "large", "lost", 1.0, "tensorflow_async"),
    Target(
        "snapshot of 5,000 small variables, at most 0.5 of TensorFlow's write", "small", "blocking", 0.5, "tensorflow"
    ),
    Target("restore, at least 0.95 x as fast as TensorFlow's", "large", "restore", 1 / 0.95, "tensorflow"),
    Target("memory of our own while saving, at most 256 MiB", "large", "extra_bytes", 256 * 2**20),
)


@dataclass(frozen=True)
class Verdict:
    """A target on one medium.

    Attributes:
        target: what is asked.
        medium: where.
        ours: Holdfast's median in the figure's unit; None if not measured.
        bound: the most that it may be; None if the one to compare with was not measured.
        limit: the raw writer's median. Where it is above the bound, the medium allows nobody to meet the target.
        noise: the distance between ours and the bound that says nothing.
    """

    target: Target
    medium: str
    ours: float | None
    bound: float | None
    limit: float | None
    noise: float

    @property
    def outcome(self) -> str:
        """`met`, `missed`, `within noise` or `not measured`."""
        if self.ours is None or self.bound is None:
            return "not measured"
        if abs(self.ours - self.bound) < self.noise:
            return "within noise"
        return "met" if self.ours <= self.bound else "missed"


def verdicts(results: Results) -> Iterator[Verdict]:
    """Each target of a case that was run, on each medium where anybody measured its figure."""
    cases = {case.name: case for case in results.cases}
    for target in TARGETS:
        if target.case not in cases:
            continue
        for medium in results.media:
            medians = {
                contestant: summary.median
                for contestant in LABELS
                if (summary := results.summary(target.case, medium, contestant, target.figure))
            }
            if not medians:
                continue
            bound: float | None = target.at_most
            if target.other is not None:
                theirs = medians.get(target.other)
                bound = None if theirs is None else target.at_most * theirs
            # Only lost times are differences of two nearly equal ones.
            noise = results.lost_noise(cases[target.case], medium) if target.figure == "lost" else None
            yield Verdict(target, medium, medians.get(_US), bound, medians.get(_LIMIT), noise or 0.0)
