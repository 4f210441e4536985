"""`make points`: every fault at every point of every scene, on all cores, and how that went."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from statistics import median
from typing import get_args

from simulation import patches
from simulation.exhaustion import Act, Case, Label, Play, Result, Scene, cases, pairs
from simulation.many import little_collecting

PORTION = 200  # cases that one process takes at a time: to install the simulation takes as long as five
COLLECT_EVERY = 25

SCENES = tuple(Scene(act, embedded) for act in get_args(Act) for embedded in (False, True))


@dataclass(slots=True)
class Tally:
    """The results of many cases.

    Attributes:
        points: by scene.
        cases: how many, by what went wrong.
        lost: by the same, cases in which some save was not told to be committed.
        restarts: by the same, cases in which the job had to be started again.
        delays: by the same, virtual seconds that each case took longer than the scene takes without a fault.
    """

    points: dict[Scene, tuple[Label, ...]] = field(default_factory=dict)
    calm: dict[Scene, float] = field(default_factory=dict)
    cases: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)
    delays: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    bad: list[Result] = field(default_factory=list)

    def survey(self, scenes: Sequence[Scene]) -> None:
        """Find the points of scenes. Inside `patches.installed()`."""
        for scene in scenes:
            (calm,) = tell([Case(scene)])
            assert not calm.violation, f"{scene}: {calm.violation}"
            assert (calm.lives, calm.lost) == (1, 0), f"{scene} does not go well"
            self.points[scene], self.calm[scene] = calm.points, calm.ended_at

    def every(self) -> list[Case]:
        return [case for scene, points in self.points.items() for case in cases(scene, points)]

    def pairs(self, count: int, seed: int) -> list[Case]:
        """Return `count` cases of two faults for each scene."""
        return [case for scene, points in self.points.items() for case in pairs(scene, points, count, seed)]

    def add(self, result: Result) -> None:
        kind = kind_of(result.case)
        self.cases[kind] += 1
        self.lost[kind] += bool(result.lost)
        self.restarts[kind] += result.lives > 1
        if result.violation:
            self.bad.append(result)
        else:
            self.delays[kind].append(result.ended_at - self.calm[result.case.scene])

    def report(self) -> Iterator[str]:
        """Yield the report, for people."""
        points = [label for labels in self.points.values() for label in labels]
        kinds = Counter(label.kind for label in points)
        yield f"{len(points)} points in {len(self.points)} scenes: " + ", ".join(f"{n} {k}" for k, n in kinds.items())
        yield f"{'what goes wrong':<40} {'cases':>6} {'with a save lost':>17} {'job restarted':>14} {'longer by':>22}"
        for kind, count in sorted(self.cases.items()):
            delays = self.delays[kind] or [0.0]
            longer = f"{median(delays):.1f} s, at most {max(delays):.0f} s"
            yield f"{kind:<40} {count:>6} {self.lost[kind]:>17} {self.restarts[kind]:>14} {longer:>22}"
        yield f"{self.cases.total()} cases, {len(self.bad)} violations"


def told(result: Result) -> str:
    """Return what was violated."""
    return f"{result.case}\n    {result.violation}"


def kind_of(case: Case) -> str:
    """Return what goes wrong in a case, in a few words."""
    fault = case.fault
    assert fault is not None
    if case.second:
        return "two faults"
    if fault.effect == "kill":
        place = {"before": "before", "amid": "amid", "done": "after"}[fault.when]
        return f"SIGKILL, {place}: {fault.actor}"
    return f"{fault.label.kind}: {fault.effect}"


def tell(portion: Sequence[Case]) -> list[Result]:
    """Tell some cases, inside `patches.installed()`."""
    results = []
    for number, case in enumerate(portion, 1):
        play = Play(case)
        results.append(play.run())
        play.world.forget()
        if number % COLLECT_EVERY == 0:
            gc.collect()
    return results


def tell_apart(portion: Sequence[Case]) -> list[Result]:
    """The same in a process that is there for nothing else."""
    with patches.installed(), little_collecting():
        return tell(portion)


def share(text: str) -> tuple[int, int]:
    """Parse K/N, with K from 1 to N."""
    first, _, count = text.partition("/")
    if not 1 <= int(first) <= int(count):
        raise ValueError(text)
    return int(first), int(count)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="simulation.every_point", description=__doc__)
    parser.add_argument("--pairs", type=int, default=100, help="cases with two faults, of each scene (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of these pairs (default: 0)")
    parser.add_argument("--again", metavar="TEXT", default="", help="only the cases in whose description this stands")
    parser.add_argument(
        "--share", metavar="K/N", type=share, default=(1, 1), help="each N-th case from the K-th on (default: 1/1)"
    )
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: a core each)"
    )
    options = parser.parse_args(arguments)
    began = shown = time.monotonic()
    tally = Tally()
    with patches.installed():
        tally.survey(SCENES)
    todo = [*tally.every(), *tally.pairs(options.pairs, options.seed)]
    first, shares = options.share
    todo = [case for case in todo if options.again in str(case)][first - 1 :: shares]
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        portions = [pool.submit(tell_apart, todo[start : start + PORTION]) for start in range(0, len(todo), PORTION)]
        for portion in as_completed(portions):
            for result in portion.result():
                tally.add(result)
                if result.violation:
                    story = result.story if len(tally.bad) == 1 else ()
                    print("\n".join((*story, told(result))), flush=True)
            if time.monotonic() - shown > 10.0:
                shown = time.monotonic()
                print(f"{tally.cases.total()} of {len(todo)} cases, {len(tally.bad)} bad ones", flush=True)
    print("\n".join(tally.report()))
    print(f"{time.monotonic() - began:.0f} s")
    return 1 if tally.bad else 0


if __name__ == "__main__":
    sys.exit(main())
