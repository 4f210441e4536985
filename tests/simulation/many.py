"""Many stories, one after the other."""

from __future__ import annotations

import gc
import itertools
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from simulation import patches
from simulation.interruptions import Interruption
from simulation.storage import Violation
from simulation.story import Story

COLLECT_EVERY = 25
INTERRUPTED_EVERY = 10
"""One in so many seeds tells of signals in a world that is calm."""


@dataclass(slots=True)
class Failure:
    """A story that ended badly, as far as it went."""

    seed: int
    kind: str
    what: str
    story: list[str]


@dataclass(slots=True)
class Told:
    """The results of some seeds."""

    seeds: int = 0
    events: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Told) -> None:
        self.seeds += other.seeds
        self.events += other.events
        self.counts += other.counts
        self.failures += other.failures


@contextmanager
def little_collecting() -> Iterator[None]:
    """Leave garbage for `tell` to collect: what one story leaves is small, and what is imported is not garbage."""
    was = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was:
            gc.enable()


def story_of(seed: int) -> Story | Interruption:
    return Interruption(seed) if seed % INTERRUPTED_EVERY == INTERRUPTED_EVERY - 1 else Story(seed)


def seeds_of(wants: Callable[[Story | Interruption], bool], first: int = 0) -> Iterator[int]:
    """Yield the seeds from `first` on whose stories are wanted, by what is known of one before it is told.

    Inside `patches.installed()`.
    """
    for seed in itertools.count(first):
        story = story_of(seed)
        wanted = wants(story)
        story.world.forget()
        if wanted:
            yield seed


def tell(seeds: Iterable[int]) -> Told:
    """Tell the stories of these seeds, inside `patches.installed()`."""
    told = Told()
    for number, seed in enumerate(seeds, 1):
        story = story_of(seed)
        try:
            story.run()
        except Violation as violation:
            told.failures.append(Failure(seed, violation.kind, str(violation), list(story.world.story())))
        except Exception:
            told.failures.append(Failure(seed, "error", traceback.format_exc(), list(story.world.story())))
        told.seeds += 1
        told.events += story.world.scheduler.steps
        told.counts += story.world.counts
        story.world.forget()
        if number % COLLECT_EVERY == 0:
            gc.collect()
    return told


def tell_apart(first: int, count: int) -> Told:
    """The same in a process that is there for nothing else."""
    with patches.installed(), little_collecting():
        return tell(range(first, first + count))
