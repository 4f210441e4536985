"""Killing in the middle of a save."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.demo.processes import Process, ProcessFailed
from holdfast.demo.sabotage import kill_in_mid_save
from holdfast_storage.layout import Attempt
from holdfast_storage.log.log import Log
from holdfast_storage.records import CheckpointRecord, Entry, LogState
from holdfast_storage.store import open_store
from support.light_worker import until

pytestmark = pytest.mark.processes


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Process]:
    """A process that would run for ever."""
    process = Process("victim", "http.server", ["0", "--bind", "127.0.0.1"], tmp_path / "victim.log", {})
    yield process
    process.end()


def begin(directory: Path, step: int, ordinal: int) -> Attempt:
    """What the first worker to write makes visible."""
    attempt = Attempt("ckpt", step, "0a1b2c3d", ordinal)
    open_store(directory).write(f"{attempt.prefix}.data-00000-of-00001", [b"bytes"])
    return attempt


def commit(directory: Path, *attempts: Attempt) -> None:
    checkpoints = tuple(CheckpointRecord(a.prefix, a.number, 0.0) for a in attempts)
    Log(open_store(directory)).publish(Entry(0, "commit", "write", 0.0, LogState("run", checkpoints=checkpoints)), 5.0)


def test_kills_in_a_save_that_is_not_committed(tmp_path: Path, victim: Process) -> None:
    """The kill hits a save of the wanted step or later that is not committed. Guards against touching earlier saves."""
    run = tmp_path / "run"
    commit(run, begin(run, 10, 1))
    begin(run, 20, 2)
    kill = kill_in_mid_save(run, victim, [victim], from_step=20, deadline_s=30.0)
    assert victim.returncode == -9
    assert (kill.step, kill.objects, kill.size, kill.misses) == (20, 1, 5, 0)


def test_a_save_that_commits_is_missed_and_the_next_one_taken(tmp_path: Path, victim: Process) -> None:
    """A save that commits anyway is skipped for the next one. Guards against a demo that claims a kill in the middle of
    a save and shows none."""
    run = tmp_path / "run"
    first = begin(run, 20, 1)

    def others() -> None:
        until(lambda: _state(victim) == "T")
        commit(run, first)
        until(lambda: _state(victim) != "T")
        begin(run, 30, 2)

    thread = threading.Thread(target=others)
    thread.start()
    try:
        kill = kill_in_mid_save(run, victim, [victim], from_step=20, deadline_s=30.0)
    finally:
        thread.join()
    assert (kill.step, kill.misses) == (30, 1)


def test_gives_up_if_there_is_no_save(tmp_path: Path, victim: Process) -> None:
    """Without a save the sabotage gives up. Guards against waiting without an end for a training that never saves."""
    with pytest.raises(ProcessFailed, match="a save of step 20 or later"):
        kill_in_mid_save(tmp_path / "run", victim, [victim], from_step=20, deadline_s=0.2)
    assert victim.returncode is None


def _state(process: Process) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
