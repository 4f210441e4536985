"""Jobs of light workers, each in a process of its own that is told what to do: see tests/processes/programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from holdfast_storage.store import Store
from support.child import TESTS, Child

PROGRAMS = TESTS / "processes" / "programs"

Start = Callable[..., Child]
"""`start(*arguments, prefix=(), **environment)`: the fixture that starts Python programs."""


def worker(start: Start, store: Store, index: int, size: int, address: str = "", **options: Any) -> Child:
    """A worker of a job. address: of the coordinator; empty: embedded in the first worker.

    options: of a `LightWorker`.
    """
    return start(PROGRAMS / "worker.py", store.url, index, size, address, json.dumps(options))


def joined(start: Start, store: Store, size: int, address: str = "", **options: Any) -> list[Child]:
    """All workers of a job, when they have joined."""
    workers = [worker(start, store, index, size, address, **options) for index in range(size)]
    expect(workers, "joined")
    return workers


def tell(workers: Sequence[Child], line: str) -> None:
    for worker in workers:
        worker.say(line)


def expect(workers: Sequence[Child], part: str) -> None:
    for worker in workers:
        worker.expect(part)
