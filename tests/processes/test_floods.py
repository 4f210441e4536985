"""Strangers who do little things often, or hold much open: a small flood of each kind beside a living job.

How much memory and time a large one takes is measured by `python -m benchmarks.attacks`.
"""

from __future__ import annotations

import resource
from collections.abc import Callable

import psutil
import pytest

from holdfast.session.hint import read_hint
from holdfast_storage.store import Store
from support.attackers import ATTACKS
from support.child import Child
from support.light_job import PROGRAMS, Start, expect, tell, worker
from support.light_worker import committed

pytestmark = pytest.mark.processes

MEMORY = 256 << 20
FILES = 1024


def test_beside_a_standalone_coordinator(
    start: Start, coordinate: Callable[[], Child], address: str, store: Store
) -> None:
    """A flood of each kind is refused, takes little memory, and the job beside it saves. Guards against what costs a
    stranger little and a coordinator much."""
    serving = coordinate()
    workers = [worker(start, store, index, 2, address, max_to_keep=1) for index in range(2)]
    expect(workers, "joined")
    for step, attack in enumerate(ATTACKS.values(), 1):
        attack(address, 0.5, 500, lambda step=step: expect_save(workers, step))  # type: ignore[misc]
        assert psutil.Process(serving.pid).memory_info().rss < MEMORY, attack
    assert [record.step for record in committed(store)] == [len(ATTACKS)]


def test_a_chief_with_few_files(start: Start, store: Store) -> None:
    """Ten thousand idle connections leave a chief with 1,024 files those that it needs for its saves. Guards against
    "too many open files" in a training job, because of somebody who only connects."""
    few = ["sh", "-c", f'ulimit -n {FILES} && exec "$0" "$@"']
    workers = [start(PROGRAMS / "worker.py", store.url, index, 2, "", "{}", prefix=few) for index in range(2)]
    expect(workers, "joined")
    expect_save(workers, 1)
    hint = read_hint(store)
    assert hint is not None
    most = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 256)
    ATTACKS["idle"](hint.address, 0.5, most, lambda: expect_save(workers, 2))
    expect_save(workers, 3)
    assert [record.step for record in committed(store)] == [1, 2, 3]
    assert psutil.Process(workers[0].pid).memory_info().rss < MEMORY


def expect_save(workers: list[Child], step: int) -> None:
    tell(workers, f"save {step}")
    expect(workers, f"step {step}: committed")
