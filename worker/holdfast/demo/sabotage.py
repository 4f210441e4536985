"""Kills a worker in the middle of a save, and makes sure that it was the middle.

An attempt's folder appears when the first worker begins to write, and a commit is an entry of the log. There are only
milliseconds between the two, so the victim is first stopped. What it has not reported by then, it never will. If the
others and the coordinator cannot commit without it, it was in the middle of the save, and is killed. If the commit
appears, its part was already done, and it goes on to the next save.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

from holdfast.demo.processes import Process, wait_until
from holdfast_storage.layout import Attempt, parse_folder
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store

# Far longer than the coordinator needs to commit a save once it has all reports.
_TIME_TO_COMMIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Kill:
    """A kill that hit a save."""

    step: int  # of the save
    time: float  # seconds since the epoch
    objects: int  # objects in the attempt's folder by then
    size: int  # of these, in bytes
    misses: int  # earlier saves that were over too soon


def kill_in_mid_save(
    directory: Path, victim: Process, processes: Sequence[Process], from_step: int, deadline_s: float
) -> Kill:
    """Kill the victim with SIGKILL in the middle of the first save of `from_step` or later that can be caught.

    Raises ProcessFailed if a process ends by itself first, or if no save could be caught within `deadline_s`.
    """
    deadline = time.monotonic() + deadline_s
    missed: set[str] = set()
    while True:
        found: list[Attempt] = []

        def begun(found: list[Attempt] = found) -> bool:
            found += [a for a in _attempts(directory) if a.number >= from_step and a.folder not in missed]
            return bool(found)

        wait_until(begun, processes, deadline - time.monotonic(), f"a save of step {from_step} or later", poll_s=0.0005)
        victim.send(SIGSTOP)
        stopped = time.time()
        (attempt, *_) = found
        if not _commits(directory, attempt):
            victim.end(SIGKILL)
            sizes = [f.stat().st_size for f in (directory / attempt.folder).rglob("*") if f.is_file()]
            return Kill(attempt.number, stopped, len(sizes), sum(sizes), len(missed))
        victim.send(SIGCONT)
        missed.add(attempt.folder)


def _attempts(directory: Path) -> list[Attempt]:
    names = os.listdir(directory) if directory.is_dir() else []
    return [attempt for name in names if (attempt := parse_folder(name))]


def _commits(directory: Path, attempt: Attempt) -> bool:
    """Return whether an attempt is committed, now or soon, without the stopped worker."""
    store = open_store(str(directory))
    deadline = time.monotonic() + _TIME_TO_COMMIT_S
    while time.monotonic() < deadline:
        state = read_run(store)
        if state is not None and state.find(attempt.prefix) is not None:
            return True
        time.sleep(0.02)
    return False
