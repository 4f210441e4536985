"""A real file system that is full: at the first object of a save, in the middle, and at what the coordinator writes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from holdfast_storage.layout import STATE_FILE
from holdfast_storage.store import Store, open_store
from holdfast_storage.store.posix import PosixStore
from support.child import Child
from support.figures import Figure
from support.light_job import Start, joined, tell
from support.light_worker import committed
from support.ports import free_address
from support.small_disk import PAGE, SmallDisk, small_disk
from support.stores import PlainFileSystem

pytestmark = pytest.mark.processes

KINDS = {
    "data": r"ckpt-\d+\.[0-9a-f]+\.\d+/ckpt-\d+\.data-",
    "index": r"ckpt-\d+\.[0-9a-f]+\.\d+/ckpt-\d+\.index",
    "manifest": r"manifest\.json",
    "log entry": r"_holdfast/log/\d+\.json",
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 128 << 20) as disk:
        yield disk


@pytest.fixture
def job(start: Start, disk: SmallDisk) -> tuple[Child, list[Child]]:
    """A coordinator and the two workers of a job, on that disk."""
    inside = partial(start, prefix=disk.prefix)
    address = free_address()
    coordinator = inside("-m", "holdfast.cli", "coordinator", "--root", disk.path, "--listen", address)
    coordinator.expect(f"listens on {address}")
    return coordinator, joined(inside, PosixStore(f"{disk.path}/run"), 2, address)


def test_wherever_it_becomes_full(job: tuple[Child, list[Child]], disk: SmallDisk, figure: Figure) -> None:
    """A disk that fills up at any object fails that save on all workers, and nothing else. Guards against one failed
    worker and others that hang, a job that ends, and half a checkpoint taken for a whole one."""
    coordinator, workers = job
    store = open_store(f"{PlainFileSystem.protocol}://{disk.outside}/run")
    # First when there is nothing yet, and the run cannot even begin.
    disk.fill(leave=0)
    assert kind_of(save(workers, 1)) == "log entry"
    assert committed_steps(store) == listed(disk) == []
    disk.empty()
    before = disk.free
    assert save(workers, 2) is None
    pages = (before - disk.free) // PAGE

    kinds, steps = Counter[str](), [2]
    for left in [*range(4), *range(4, pages - 8, pages // 10), *range(pages - 8, pages + 2)]:
        step = steps[-1] + 1
        disk.fill(leave=left * PAGE)
        behind = len(coordinator.output)
        failure = save(workers, step)
        if failure is None:
            steps.append(step)
            late = any("state file could not be written" in line for line in coordinator.output[behind:])
            kinds["state file" if late else "nothing"] += 1
        else:
            kinds[kind_of(failure)] += 1
        assert committed_steps(store) == steps
        disk.empty()
        assert save(workers, step + 1) is None
        steps.append(step + 1)
        assert f'ckpt-{step + 1}"'.encode() in store.read(STATE_FILE).splitlines()[0]
    assert listed(disk) == steps == committed_steps(store)
    assert kinds.keys() == {*KINDS, "state file", "nothing"}
    figure("disk full at", ", ".join(f"{kind} ({n} times)" for kind, n in kinds.items()))


def save(workers: list[Child], step: int) -> str | None:
    """How a save failed, on all workers alike; None if it was committed."""
    tell(workers, f"save {step}")
    said = {worker.expect(f"step {step}:").partition(": ")[2] for worker in workers}
    assert len(said) == 1, said
    (outcome,) = said
    return None if outcome == "committed" else outcome


def kind_of(failure: str | None) -> str:
    """Of the object for which there was no space; whoever wrote it is named."""
    assert failure is not None
    assert failure.startswith("SaveFailed: ")
    assert "nothing of it is visible" in failure
    assert "No space left on device" in failure
    kinds = [kind for kind, pattern in KINDS.items() if re.search(pattern, failure)]
    assert len(kinds) == 1, failure
    assert ("worker-" if kinds == ["data"] else "the coordinator") in failure
    return kinds[0]


def committed_steps(store: Store) -> list[int]:
    """Of checkpoints that are committed, each verified."""
    return [] if not store.list("_holdfast/log") else [record.step for record in committed(store)]


def listed(disk: SmallDisk) -> list[int]:
    """Steps that `holdfast ls` shows."""
    command = [*disk.prefix, sys.executable, "-m", "holdfast.cli", "ls", f"{disk.path}/run", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return [each["step"] for each in json.loads(done.stdout)["checkpoints"]] if done.returncode == 0 else []
