"""Real processes that hang, and what `holdfast status` and the error of the save say of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any

import pytest

from holdfast_storage.store import Store
from support.light_job import Start, joined
from support.light_worker import committed
from support.ports import free_address

pytestmark = pytest.mark.processes


def coordinator(start: Start, store: Store) -> str:
    """The address of one in a process of its own."""
    address = free_address()
    child = start("-m", "holdfast.cli", "coordinator", "--root", os.path.dirname(store.url), "--listen", address)
    child.expect(f"listens on {address}")
    return address


def status(target: str) -> tuple[int, dict[str, Any]]:
    """Exit status and output of the command, in a process of its own."""
    command = [sys.executable, "-m", "holdfast.cli", "status", target, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.stderr == ""
    return result.returncode, json.loads(result.stdout)


def until(target: str, expected: Callable[[dict[str, Any]], bool]) -> tuple[int, dict[str, Any]]:
    end = time.monotonic() + 60.0
    while not expected((found := status(target))[1]):
        assert time.monotonic() < end, found
        time.sleep(0.2)
    return found


def standing(told: dict[str, Any], worker: int) -> str:
    return str(told["workers"][worker]["standing"])


def test_a_worker_that_was_stopped_is_named_at_once_and_ends_the_save(start: Start, store: Store) -> None:
    """A stopped worker is named at once and ends the save. Guards against a worker that seems present because the
    kernel keeps its connection."""
    workers = joined(start, store, 3, coordinator(start, store))
    for worker in workers:
        worker.say("save 1")
    for worker in workers:
        worker.expect("step 1: committed")
    workers[1].send(SIGSTOP)
    for worker in (workers[0], workers[2]):
        worker.say("save 2")
    code, told = until(store.url, lambda told: told["activity"] is not None)
    assert told["activity"]["waiting_for"] == ["worker-1"]
    assert told["activity"]["reason"] == "waiting for worker-1 to call save()"
    code, told = until(store.url, lambda told: standing(told, 1) in ("silent", "lost"))
    assert code == 1
    assert told["bad"][0].startswith("worker-1 "), told["bad"]
    for worker in (workers[0], workers[2]):
        assert "SaveFailed" in worker.expect("step 2:")
        assert "worker-1 lost" in worker.output[-1]
    # Awake again it is told like the others, and is one of them.
    workers[1].send(SIGCONT)
    workers[1].say("save 2")
    assert "SaveFailed" in workers[1].expect("step 2:")
    for worker in workers:
        worker.say("save 3")
    for worker in workers:
        worker.expect("step 3: committed")
    code, told = until(store.url, lambda told: {standing(told, n) for n in range(3)} == {"present"})
    assert (code, told["bad"]) == (0, [])
    assert [record.step for record in committed(store)] == [1, 3]


def test_a_worker_that_is_stuck_in_writing_is_named_by_the_error(start: Start, store: Store) -> None:
    """The error of the save names a worker that is stuck in writing. Guards against a lost save without a reason,
    because a mount hangs on one host that still sends heartbeats."""
    workers = joined(start, store, 2, coordinator(start, store), save_timeout=6.0)
    workers[1].say("hold")
    for worker in workers:
        worker.say("save 1")
    workers[1].expect("writing")
    code, told = until(store.url, lambda told: (told["activity"] or {}).get("waiting_for") == ["worker-1"])
    assert code == 0, "it may be slow"
    stuck = told["workers"][1]
    assert (stuck["standing"], stuck["phase"], stuck["waited_for"]) == ("present", "write", True)
    assert stuck["bytes_done"] < stuck["bytes_total"]
    assert 0 < told["activity"]["seconds_left"] <= 6
    line = workers[0].expect("step 1:")
    assert "SaveFailed" in line
    assert "waiting for worker-1 to write (worker-1: in phase 'write' for" in line
    assert "bytes, without progress for" in line
    code, told = status(store.url)
    assert code == 1
    assert told["last_save"]["failure"]["workers"] == ["worker-1"]
    workers[1].say("open")
    assert "SaveFailed" in workers[1].expect("step 1:")


def test_a_chief_that_was_stopped_with_the_coordinator_in_it(start: Start, store: Store) -> None:
    """A stopped chief with its coordinator is a finding. Guards against a taken port that does not answer, and looks
    like a job that has ended."""
    workers = joined(start, store, 2)
    for worker in workers:
        worker.say("save 1")
    for worker in workers:
        worker.expect("step 1: committed")
    assert status(store.url)[0] == 0
    workers[0].send(SIGSTOP)
    code, told = status(store.url)
    assert code == 1
    (sentence,) = told["bad"]
    assert "did not answer within 3 s: it is stopped, or hangs" in sentence
    assert told["log"]["newest"]["step"] == 1
    for worker in workers:
        worker.send(SIGKILL)
        worker.wait()
    code, told = status(store.url)
    assert (code, told["bad"], told["coordinator"]["address"]) == (0, [], None)
