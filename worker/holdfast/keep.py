"""What to keep: rules for `CheckpointManager(..., keep=...)`, put together with `|`.

    from holdfast import keep

    keep.newest(5) | keep.best(3, "val_loss", mode="min") | keep.every(hours=6)

A checkpoint stays as long as any of the rules keeps it. Whatever they say, these stay as well: the newest checkpoint
that was read back and all that are newer, what somebody holds, and what TensorFlow itself has written. What `every` and
`every_steps` have kept stays for ever, even if a later program has other rules.

The rules are applied after each commit, to all checkpoints of the run. So another program may have other rules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from holdfast_protos.conventions import LONGEST_WAIT, MOST_RULES
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.errors import InvalidRequest

__all__ = ["Policy", "best", "every", "every_steps", "newer_than", "newest"]


@dataclass(frozen=True, slots=True)
class _Rule:
    written: str  # as in a program
    name: str  # of the message's field
    value: int | float | tuple[tuple[str, int | str], ...]


@dataclass(frozen=True, slots=True, repr=False)
class Policy:
    """Rules of which any keeps a checkpoint. They are made by the functions of this module, and joined by `|`.

    A policy without rules keeps all checkpoints. Raises InvalidRequest for more than 16 rules.
    """

    _rules: tuple[_Rule, ...] = ()

    def __post_init__(self) -> None:
        if len(self._rules) > MOST_RULES:
            raise InvalidRequest(f"keep has {len(self._rules)} rules: at most {MOST_RULES} are possible", object="keep")

    def __or__(self, other: object) -> Policy:
        if not isinstance(other, Policy):
            return NotImplemented
        if not self._rules or not other._rules:
            return Policy()
        return Policy(tuple(dict.fromkeys(self._rules + other._rules)))

    def __bool__(self) -> bool:
        raise InvalidRequest("rules of what to keep are put together with `|`, not with `or` or `and`", object="keep")

    def __repr__(self) -> str:
        return " | ".join(rule.written for rule in self._rules) or "everything"

    def message(self) -> pb.Retention:
        """Return the policy as the coordinator is told it."""
        rules = ((rule.name, dict(rule.value) if isinstance(rule.value, tuple) else rule.value) for rule in self._rules)
        return pb.Retention(any_of=[pb.Retention.Rule(**{name: value}) for name, value in rules])  # type: ignore[arg-type]


def newest(count: int) -> Policy:
    """Keep so many of the newest checkpoints, as TensorFlow's `max_to_keep` does.

    Newest means last committed, whatever the steps. Damaged checkpoints, and those that are kept for ever, do not
    count. Raises InvalidRequest for what is no positive whole number, as the other rules do.
    """
    count = _count("count", count)
    return _policy(f"newest({count})", "newest", count)


def best(count: int, metric: str, mode: str = "min") -> Policy:
    """Keep so many of the checkpoints with the best values of a metric: the least ("min") or the largest ("max").

    The values are those that the chief has passed as `save(metrics={metric: value})`. Of equal values the newer counts
    as better. A checkpoint without a value, or with NaN or infinity, is not among the best, and damaged ones do not
    count. Those of earlier jobs count by the values that they were saved with.
    """
    if not isinstance(metric, str) or not 0 < len(metric) <= 256:
        raise InvalidRequest(f"metric is {metric!r}: it must be the name of a metric", object="metric")
    if mode not in ("min", "max"):
        raise InvalidRequest(f"mode is {mode!r}: it must be 'min' or 'max'", object="mode")
    count = _count("count", count)
    value = (("count", count), ("metric", metric), ("mode", mode))
    return _policy(f"best({count}, {metric!r}, mode={mode!r})", "best", value)


def newer_than(*, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> Policy:
    """Keep the checkpoints that are at most so much older than the newest one, by the coordinator's clock."""
    time = _time(days=days, hours=hours, minutes=minutes, seconds=seconds)
    return _policy(f"newer_than({_written(time)})", "newer_than_s", time.total_seconds())


def every(*, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> Policy:
    """Keep one checkpoint in so much time for ever, as TensorFlow's `keep_checkpoint_every_n_hours` does.

    It is each that is at least so much later than the one kept before it; the first, than the beginning of the run.
    """
    time = _time(days=days, hours=hours, minutes=minutes, seconds=seconds)
    return _policy(f"every({_written(time)})", "every_s", time.total_seconds())


def every_steps(steps: int) -> Policy:
    """Keep the first checkpoint at or after each multiple of so many steps for ever: no step need be hit exactly.

    The steps are the checkpoints' numbers. If a number was saved twice, as after a rollback, the later one counts.
    """
    steps = _count("steps", steps)
    return _policy(f"every_steps({steps})", "every_steps", steps)


def shorthand(max_to_keep: int | None, keep_checkpoint_every_n_hours: float | None) -> Policy:
    """Return the policy of TensorFlow's two arguments."""
    if max_to_keep is None:
        return Policy()
    policy = newest(max_to_keep)
    return policy | every(hours=keep_checkpoint_every_n_hours) if keep_checkpoint_every_n_hours else policy


def _policy(written: str, name: str, value: int | float | tuple[tuple[str, int | str], ...]) -> Policy:
    return Policy((_Rule(f"holdfast.keep.{written}", name, value),))


def _count(name: str, value: Any) -> int:
    """Return a positive integer, given as any kind of number: it may come from a configuration file."""
    is_number = hasattr(value, "__float__") and not isinstance(value, bool)
    number = float(value) if is_number else math.nan
    if not number.is_integer() or not 1 <= number < 1 << 53:
        raise InvalidRequest(f"{name} is {value!r}: it must be a positive whole number", object=name)
    return int(number)


def _time(**parts: Any) -> timedelta:
    try:
        time = timedelta(**parts)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"a time to keep checkpoints by cannot be made of {parts}: {error}") from None
    if not 0 < time.total_seconds() <= LONGEST_WAIT:
        most = LONGEST_WAIT / 86_400
        raise InvalidRequest(f"the time to keep checkpoints by is {time}: it must be positive, at most {most:.0f} days")
    return time


def _written(time: timedelta) -> str:
    """Return the arguments of a time in its largest unit that divides it."""
    seconds = time.total_seconds()
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds % size == 0:
            return f"{unit}={seconds / size:g}"
    return f"seconds={seconds:g}"
