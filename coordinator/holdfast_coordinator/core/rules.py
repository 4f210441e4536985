"""The rules of retention: each says which checkpoints of a history it keeps, and a policy keeps what any of its rules
keeps.

A rule is a pure function of the history: of the checkpoints that are still there, and of one time from the log. What a
rule does not keep may be removed at any time without changing what it keeps. So nothing else needs to be remembered,
and another policy may come with every job.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from typing import ClassVar, Literal

from holdfast_storage.records import CheckpointRecord


@dataclass(frozen=True, slots=True)
class History:
    """The checkpoints of a run up to the newest that was read back, without TensorFlow's own."""

    records: tuple[CheckpointRecord, ...]  # in commit order: the last is the newest
    good: tuple[CheckpointRecord, ...]  # those of them that nobody has condemned
    chosen: Collection[str]  # prefixes of what people keep
    last_preserved: float | None  # the time of the last that `Every` has kept for ever, no later than `now`

    @property
    def now(self) -> float:
        """The time of the newest. What has a later time was written while a clock was ahead, and counts as of now."""
        return self.records[-1].time


@dataclass(frozen=True, slots=True)
class Newest:
    """So many of the newest ones. Those among them that are damaged, chosen or kept for ever stay, and do not count."""

    for_ever: ClassVar[bool] = False
    count: int

    def keeps(self, history: History) -> Iterable[CheckpointRecord]:
        apart = history.chosen
        counted = (r for r in reversed(history.good) if not (r.preserved or r.prefix in apart))
        oldest = next(islice(counted, self.count - 1, None), None)
        kept = takewhile(lambda record: record is not oldest, reversed(history.records))
        return kept if oldest is None else chain(kept, (oldest,))


@dataclass(frozen=True, slots=True)
class Best:
    """So many with the least or the largest value of a metric. Of equal ones the newer is the better."""

    for_ever: ClassVar[bool] = False
    count: int
    metric: str
    mode: Literal["min", "max"]

    def keeps(self, history: History) -> Iterable[CheckpointRecord]:
        sign = 1.0 if self.mode == "min" else -1.0
        valued = (
            (sign * value, -position, record)
            for position, record in enumerate(history.good)
            for name, value in record.metrics
            if name == self.metric and value is not None
        )
        return (record for _, _, record in heapq.nsmallest(self.count, valued))


@dataclass(frozen=True, slots=True)
class NewerThan:
    """Those that are at most so much older than the newest."""

    for_ever: ClassVar[bool] = False
    seconds: float

    def keeps(self, history: History) -> Iterable[CheckpointRecord]:
        since = history.now - self.seconds
        return (record for record in history.records if record.time >= since)


@dataclass(frozen=True, slots=True)
class Every:
    """One in so much time, for ever: each that is at least so much later than the one before that it has kept."""

    for_ever: ClassVar[bool] = True
    seconds: float

    def keeps(self, history: History) -> Iterable[CheckpointRecord]:
        last, now = history.last_preserved, history.now
        for record in history.good:
            if not record.preserved:
                time = min(record.time, now)
                if last is None or time - self.seconds >= last:
                    last = time
                    yield record


@dataclass(frozen=True, slots=True)
class EverySteps:
    """The first at or after each multiple of so many steps, for ever. If its step was saved twice, the later one."""

    for_ever: ClassVar[bool] = True
    steps: int

    def keeps(self, history: History) -> Iterable[CheckpointRecord]:
        firsts: dict[int, CheckpointRecord] = {}
        for record in history.good:
            multiple = record.step // self.steps
            if multiple and (multiple not in firsts or record.step <= firsts[multiple].step):
                firsts[multiple] = record
        return firsts.values()


Rule = Newest | Best | NewerThan | Every | EverySteps

Policy = tuple[Rule, ...]
"""A checkpoint stays if any of the rules keeps it. Without rules, all stay."""


def metrics_of(policy: Policy) -> tuple[str, ...]:
    """Return the names of the metrics that a policy needs to know, sorted."""
    return tuple(sorted({rule.metric for rule in policy if isinstance(rule, Best)}))
