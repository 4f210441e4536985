"""The states that are saved: how many variables, of which size, and how long the training loop is, if there is one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One shape of state, half weights and half momentum slots, all square float32 matrices.

    Attributes:
        name: identifier in results and on the command line.
        variables: number of variables; even.
        width: rows and columns of each.
        batch: rows of the training batch; sets how much a step computes beside touching all variables.
        saves: saves in the timed training loop.
        steps_per_save: steps between two saves, and after the last one. Long enough that a save in the background
            ends before the next begins, as in any sensible job; where it does not, the wait is in the figure.
    """

    name: str
    variables: int
    width: int
    batch: int
    saves: int
    steps_per_save: int

    @property
    def layers(self) -> int:
        """Number of weight matrices; each has one momentum slot."""
        return self.variables // 2

    @property
    def state_bytes(self) -> int:
        """Size of the state in bytes."""
        return self.variables * self.width * self.width * 4

    @property
    def bound_by_bytes(self) -> bool:
        """Whether bytes set the pace, not the number of variables, so that a throughput means something."""
        return self.state_bytes >= self.variables * 2**18

    @property
    def label(self) -> str:
        """The case in words, for the report."""
        each = self.state_bytes / self.variables
        return f"{_binary(self.state_bytes)} in {self.variables:,} variables of {_binary(each)}"


def _binary(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"


def cases(storage: str, quick: bool) -> tuple[Case, ...]:
    """What is saved to `files` or `s3`. On an object store nobody's time depends on what a variable costs."""
    both = QUICK if quick else FULL
    return both if storage == "files" else both[:1]


# "large" is bound by bytes, "small" by what each variable costs.
FULL = (
    Case("large", variables=64, width=2048, batch=8, saves=1, steps_per_save=12),
    Case("small", variables=5000, width=16, batch=8, saves=1, steps_per_save=20),
)
QUICK = (
    Case("large", variables=64, width=512, batch=8, saves=2, steps_per_save=8),
    Case("small", variables=500, width=16, batch=8, saves=2, steps_per_save=30),
)
