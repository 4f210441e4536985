"""What Holdfast has to reach at least, and whether a run shows it. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.contestants import FILES, OBJECTS
from benchmarks.results import Results

_US = "holdfast"


@dataclass(frozen=True)
class Target:
    """A bound on a median of Holdfast's, relative to others' or absolute.

    Attributes:
        what: in words.
        case: of which case.
        figure: Holdfast's figure.
        at_most: the bound, times the others' best median, or in the figure's own unit where there are no others.
        others: contestants, the best of whom to compare with.
    """

    what: str
    case: str
    figure: str
    at_most: float
    others: tuple[str, ...] = ()


_RAW = ("s3fs_open", "s3fs_pipe", "obstore")
_TENSORFLOW = ("tensorflow",)
_ASYNC = ("tensorflow_async",)

TARGETS = {
    FILES.name: (
        Target("save to durable, at least 2.0 x as fast as TensorFlow", "large", "durable", 1 / 2.0, _TENSORFLOW),
        Target("training time lost per save, at most 5 % of TensorFlow sync's", "large", "lost", 0.05, _TENSORFLOW),
        Target("training time lost per save, no worse than TensorFlow async's", "large", "lost", 1.0, _ASYNC),
        Target(
            "snapshot of 5,000 small variables, at most 0.5 of TensorFlow's write",
            "small",
            "blocking",
            0.5,
            _TENSORFLOW,
        ),
        Target("restore, at least 0.95 x as fast as TensorFlow's", "large", "restore", 1 / 0.95, _TENSORFLOW),
        Target("memory of our own while saving, at most 256 MiB", "large", "extra_bytes", 256 * 2**20),
    ),
    OBJECTS.name: (
        Target("save, at least 2.7 x as fast as `fs.open().write`", "large", "durable", 1 / 2.7, ("s3fs_open",)),
        Target("save, at least 0.8 of the fastest raw client's speed", "large", "durable", 1 / 0.8, _RAW),
        Target("the same, the aim: 0.95", "large", "durable", 1 / 0.95, _RAW),
        Target("restore, at least 0.8 of the fastest raw client's speed", "large", "restore", 1 / 0.8, _RAW),
        Target("the same, the aim: 0.95", "large", "restore", 1 / 0.95, _RAW),
        Target("memory of our own while saving, at most 256 MiB", "large", "save_bytes", 256 * 2**20),
    ),
}
"""By the field that they are about."""


@dataclass(frozen=True)
class Verdict:
    """A target on one medium.

    Attributes:
        target: what is asked.
        medium: where.
        ours: Holdfast's median in the figure's unit; None if not measured.
        bound: the most that it may be; None if not all to compare with were measured.
        limit: the median of whoever shows the limit. Where it is above the bound, nobody can meet the target there.
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
        """The verdict in words: `met`, `missed`, `within noise` or `not measured`."""
        if self.ours is None or self.bound is None:
            return "not measured"
        if abs(self.ours - self.bound) < self.noise:
            return "within noise"
        return "met" if self.ours <= self.bound else "missed"


def verdicts(results: Results) -> Iterator[Verdict]:
    """Each target of a case that was run, on each medium where anybody measured its figure."""
    cases = {case.name: case for case in results.cases}
    field = results.contestants
    for target in TARGETS[field.name]:
        if target.case not in cases:
            continue
        for medium in results.media:
            medians = {
                contestant: summary.median
                for contestant in field.labels
                if (summary := results.summary(target.case, medium, contestant, target.figure))
            }
            if not medians:
                continue
            bound: float | None = target.at_most
            if target.others:
                theirs = [medians.get(other) for other in target.others]
                measured = [each for each in theirs if each is not None]
                # Without one of them, the best of the others says nothing.
                bound = target.at_most * min(measured) if len(measured) == len(theirs) else None
            # Only lost times are differences of two nearly equal ones.
            noise = results.lost_noise(cases[target.case], medium) if target.figure == "lost" else None
            yield Verdict(target, medium, medians.get(_US), bound, medians.get(field.limit), noise or 0.0)
