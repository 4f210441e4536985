"""The checkpoint interval of Young and Daly: how often to save, given what a save costs and how often jobs fail.

J. W. Young, "A first order approximation to the optimum checkpoint interval", Communications of the ACM 17(9), 1974.
J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", Future Generation Computer
Systems 22(3), 2006, equation 37.

All times are in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

SURE = 1.645
"""Of the range of intervals: the quantile of 95 % at either end, so 90 % in all."""


@dataclass(frozen=True, slots=True)
class Advice:
    """How often to save, as far as that is known."""

    cost: float  # of a save: the time for which it keeps the training program
    failures: int
    trained: float  # in which they happened
    interval: float | None  # from the end of a save to the beginning of the next; None without a failure
    least: float
    most: float | None  # None: there is no telling


def daly(cost: float, between_failures: float) -> float:
    """Return the interval at which the least time is lost to saves and failures together."""
    half = cost / (2.0 * between_failures)
    if half >= 1.0:
        return between_failures
    return math.sqrt(2.0 * cost * between_failures) * (1.0 + math.sqrt(half) / 3.0 + half / 9.0) - cost


def advise(costs: Sequence[float], durations: Sequence[float], failures: int, trained: float) -> Advice | None:
    """Return how often to save, or None if nothing is known of costs or nobody has trained.

    costs: for how long each of the last saves kept the program. durations: how long each took until its commit, which
    no interval can be shorter than. The range holds the true mean time between failures in nine of ten cases, if
    failures come by chance: with few of them it is wide.
    """
    if not costs or trained <= 0.0:
        return None
    cost, shortest = median(costs), median(durations) if durations else 0.0

    def interval(count: float) -> float:
        return max(daly(cost, trained / count), shortest) if cost > 0.0 else shortest

    return Advice(
        cost,
        failures,
        trained,
        interval(failures) if failures else None,
        interval(_chi_square(2 * failures + 2, SURE) / 2.0),
        interval(_chi_square(2 * failures, -SURE) / 2.0) if failures else None,
    )


def _chi_square(degrees: int, deviations: float) -> float:
    """Return a quantile of the chi-square distribution, by the approximation of Wilson and Hilferty (1931)."""
    spread = 2.0 / (9.0 * degrees)
    return degrees * max(1.0 - spread + deviations * math.sqrt(spread), 0.05) ** 3
