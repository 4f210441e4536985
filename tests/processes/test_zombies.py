"""Processes that sleep (SIGSTOP) while a newer job goes on with their run, and wake up (SIGCONT) after its commit."""

from __future__ import annotations

import os
import re
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM

import pytest

from holdfast.session.hint import read_hint
from holdfast_storage.layout import STATE_FILE, parse_folder
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store import Store
from support.child import Child
from support.light_job import PROGRAMS, Start, expect, joined, tell, worker
from support.light_worker import committed, until
from support.ports import free_address

pytestmark = pytest.mark.processes

# Each is the last moment before something happens. Entries 0 to 2 are import, lead and the first commit.
OF_A_WORKER = {
    "its object is written": ("write", r"ckpt-2\..*data-"),
    "its object is made durable": ("fsync", r"ckpt-2\..*data-"),
}
OF_A_COORDINATOR = {
    "the index gets its name": ("link", r"ckpt-2\..*index"),
    "the manifest gets its name": ("link", r"manifest\.json"),
    "the commit entry is written": ("open", r"\.000000000003\.json"),
    "the commit entry gets its name": ("link", r"000000000003\.json"),
    "the commit entry is made durable": ("fsync", r"_holdfast/log$"),
    "the state file gets its name": ("replace", r"/checkpoint$"),
    "the retire entry gets its name": ("link", r"000000000004\.json"),
    "the retired folder loses its first file": ("unlink", r"/ckpt-1\."),
}


class Coordinator:
    """One in a process of its own, which can be told to stop itself."""

    def __init__(self, start: Start, store: Store) -> None:
        self.address = free_address()
        arguments = ["coordinator", "--root", os.path.dirname(store.url), "--listen", self.address]
        self.process = start(PROGRAMS / "coordinator.py", *arguments)
        self.process.expect(f"listens on {self.address}")

    def end(self) -> None:
        """In good order: it does what is left to do."""
        self.process.send(SIGTERM)
        assert self.process.wait() == 0
        assert not any("Traceback" in line for line in self.process.output), self.process.output


@pytest.mark.parametrize("place", OF_A_COORDINATOR)
def test_a_coordinator_wakes_up(start: Start, store: Store, place: str) -> None:
    """A coordinator that wakes up changes nothing. Guards against a paused virtual machine that commits, deletes what
    is live, or sets the state file back."""
    coordinator = Coordinator(start, store)
    zombies = joined(start, store, 2, coordinator.address, max_to_keep=1)
    put_to_sleep(zombies, coordinator.process, *OF_A_COORDINATOR[place])
    known = newer_job(start, store, Coordinator(start, store))
    before = contents(store)
    coordinator.process.send(SIGCONT)
    learn(zombies, known)
    coordinator.end()
    changed = changes(store, before, known)
    if known[-1].step == 2:
        # It may have been about to give the state file its name, past its last look at the log. It looks again after
        # that, and writes what is true now.
        assert contents(store)[STATE_FILE][0] == before[STATE_FILE][0]
        changed -= {STATE_FILE}
    assert not changed
    said = [line for line in coordinator.process.output if "a newer leader" in line]
    assert len(said) == 1, coordinator.process.output


@pytest.mark.parametrize("place", OF_A_WORKER)
def test_a_worker_wakes_up(start: Start, store: Store, place: str) -> None:
    """A worker that wakes up changes nothing. Guards against writes of a worker that was given up becoming part of
    something."""
    coordinator = Coordinator(start, store)
    zombies = joined(start, store, 2, coordinator.address, max_to_keep=1)
    put_to_sleep(zombies, zombies[1], *OF_A_WORKER[place])
    known = newer_job(start, store, coordinator)
    before = contents(store)
    zombies[1].send(SIGCONT)
    learn(zombies, known)
    assert not changes(store, before, known)


@pytest.mark.parametrize(
    ("sleeper", "call", "pattern"),
    [(1, *OF_A_WORKER["its object is written"])]
    + [(0, *OF_A_COORDINATOR[f"the {what} gets its name"]) for what in ("commit entry", "retire entry")],
)
def test_a_whole_job_wakes_up(start: Start, store: Store, sleeper: int, call: str, pattern: str) -> None:
    """A whole job that wakes up changes nothing. Guards against the same with the coordinator in the chief, while its
    successor listens elsewhere."""
    zombies = joined(start, store, 2, max_to_keep=1)
    put_to_sleep(zombies, zombies[sleeper], call, pattern)
    other = zombies[1 - sleeper]
    other.send(SIGSTOP)
    other.await_stop()
    known = newer_job(start, store, None)
    before = contents(store)
    for zombie in zombies:
        zombie.send(SIGCONT)
    learn(zombies, known)
    assert [zombie.wait() for zombie in zombies] == [0, 0]
    assert not changes(store, before, known)


def put_to_sleep(zombies: list[Child], process: Child, call: str, pattern: str) -> None:
    """Commit save 1 of a job, and have a process stop itself in save 2."""
    tell(zombies, "save 1")
    expect(zombies, "step 1: committed")
    process.say(f"stop {call} {pattern}")
    process.expect("will stop")
    tell(zombies, "save 2")
    process.expect("stopping")
    process.await_stop()


def newer_job(start: Start, store: Store, coordinator: Coordinator | None) -> list[CheckpointRecord]:
    """A job that takes the run over and commits save 5; what was committed before it."""
    before, hint = committed(store), read_hint(store)
    options = {"max_to_keep": 1, "takeover": True}
    if coordinator:
        workers = joined(start, store, 2, coordinator.address, **options)
    else:
        workers = [worker(start, store, 0, 2, **options)]
        until(lambda: read_hint(store) != hint)  # else the other waits a while for the one that sleeps
        workers.append(worker(start, store, 1, 2, **options))
        expect(workers, "joined")
    tell(workers, "restore")
    expect(workers, f"restored {before[-1].step}")
    tell(workers, "save 5")
    expect(workers, "step 5: committed")
    # Then all else goes: what it replaces, and what the other job had begun.
    until(lambda: folders(store) == state_file(store) == [5])
    return before


def folders(store: Store) -> list[int]:
    """Steps of the attempts whose folders there are."""
    return [attempt.number for name in store.list() if (attempt := parse_folder(name.rstrip("/")))]


def state_file(store: Store) -> list[int]:
    """Steps of all checkpoints that TensorFlow's file names."""
    return [int(step) for step in re.findall(rb'all_model_checkpoint_paths: ".*-(\d+)"', store.read(STATE_FILE))]


def learn(zombies: list[Child], known: list[CheckpointRecord]) -> None:
    """All are told what became of save 2, and that they can save nothing any more.

    known: what had been committed before the newer job came; nothing has been since.
    """
    for zombie in zombies:
        said = [line for line in zombie.output if line.startswith("step 2:")]
        second = said[0] if said else zombie.expect("step 2:")
        assert ("committed" if known[-1].step == 2 else "Superseded") in second
    tell(zombies, "save 3")
    for zombie in zombies:
        assert "Superseded" in zombie.expect("step 3:")
    tell(zombies, "close")
    expect(zombies, "closed")


def contents(store: Store) -> dict[str, tuple[bytes, int]]:
    """All files of a run, each with its bytes and when it was changed, in ns; temporary ones are nobody's."""
    root = Path(store.url)
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def changes(store: Store, before: dict[str, tuple[bytes, int]], known: list[CheckpointRecord]) -> set[str]:
    """What was made, changed or removed since, but for new files in folders of attempts that were never committed."""
    after = contents(store)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    taken = {record.prefix.partition("/")[0] for record in [*known, *committed(store)]}
    return {
        name
        for name in changed
        if name in before or not parse_folder(folder := name.partition("/")[0]) or folder in taken
    }
