"""`make sim`: tells so many stories, on all cores, and says what they held.

It fails if one of them ends badly, or if so many were told and something that must happen in them never did.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from simulation.many import Told, tell_apart
from simulation.marks import missed

PORTION = 100  # seeds that one process takes at a time
ENOUGH = 1_000
"""Seeds in which everything happens: a simulation in which little happens proves little."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("seeds", type=int, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: a core each)"
    )
    options = parser.parse_args(arguments)
    began = shown = time.monotonic()
    told = Told()
    last = options.first + options.seeds
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        portions = [
            pool.submit(tell_apart, first, min(PORTION, last - first)) for first in range(options.first, last, PORTION)
        ]
        for done in as_completed(portions):
            new = done.result()
            told.add(new)
            for failure in new.failures:
                print(f"seed {failure.seed}: {failure.what}", flush=True)
            if time.monotonic() - shown > 10.0:
                shown = time.monotonic()
                print(f"{told.seeds} of {options.seeds} seeds, {len(told.failures)} bad ones", flush=True)
    report(told, time.monotonic() - began)
    return 1 if told.failures or (told.seeds >= ENOUGH and missed(told.counts)) else 0


def report(told: Told, seconds: float) -> None:
    failures = sorted(told.failures, key=lambda failure: failure.seed)
    for failure in failures[:1]:
        print("\n".join(failure.story))
    for failure in failures:
        print(f"seed {failure.seed}: {failure.what}\n  again: make sim SEEDS=1 FIRST={failure.seed}")
    print(f"{told.seeds} seeds, {told.events} events, {seconds:.0f} s, {len(told.failures)} violations")
    for what, count in sorted(told.counts.items()):
        print(f"  {what:32} {count:9}")
    if never := missed(told.counts):
        print(f"never: {', '.join(never)}")


if __name__ == "__main__":
    sys.exit(main())
