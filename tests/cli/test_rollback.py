"""`holdfast rollback`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from holdfast_storage.cluster import Task
from holdfast_storage.layout import STATE_FILE
from holdfast_storage.log.log import Log, Published
from holdfast_storage.records import Entry, Generation, Leader, LogState, Past
from holdfast_storage.run_directory import read_run
from holdfast_storage.stock import state_file
from holdfast_storage.stock.state_file import listed_prefixes

Holdfast = Callable[..., Result]

LEADER, GENERATION = Leader("id", "", "host"), Generation("0a1b2c3d", ((Task("worker", 0), "a"),))


def _steps(run: Any) -> list[int]:
    state = read_run(run.store)
    assert state is not None
    return [record.step for record in state.checkpoints]


def _kinds(run: Any) -> list[str]:
    log = Log(run.store)
    last = log.tail()
    assert last is not None
    return [entry.kind for n in range(last.number + 1) if (entry := log.read(n))]


def _add(run: Any, change: Callable[[LogState], LogState]) -> None:
    last = Log(run.store).tail()
    assert last is not None
    entry = Entry(last.number + 1, "commit", "leader.2", 0.0, change(last.state))
    assert Log(run.store).publish(entry, 5.0) == Published()


def test_the_next_job_goes_on_from_there(saved: Any, holdfast: Holdfast) -> None:
    """The checkpoint is the newest, in the log and for stock readers, and the job that led is superseded. Guards
    against a living job that goes on from what was given up, and TensorFlow's own programs that still restore it."""
    _add(saved, lambda state: state.lead(LEADER, GENERATION))
    result = holdfast("rollback", f"{saved.path}@10")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"{saved.path}@10 is the newest checkpoint now; what came after it stays, as older: 1 checkpoint",
        "a job that still trains there ends with an error at its next save: start it again",
    ]
    assert _steps(saved) == [20, 10]
    state = read_run(saved.store)
    assert state is not None
    assert (state.generation, state.superseded, state.leases) == (None, (GENERATION.id,), ())
    assert [prefix.split(".")[0] for prefix in listed_prefixes(saved.store)] == ["ckpt-20", "ckpt-10"]
    assert holdfast("verify", saved.path).exit_code == 0, "nothing was removed"


def test_what_is_the_newest_stays_so(saved: Any, holdfast: Holdfast) -> None:
    """There is nothing to do, and a job is not ended; but TensorFlow's file is written if nobody leads, since an
    earlier try may have ended before. Guards against a job stopped for nothing, and stock readers left behind."""
    assert "newest checkpoint already" in holdfast("rollback", f"{saved.path}@20").stdout
    assert "rollback" not in _kinds(saved)
    holdfast("rollback", f"{saved.path}@10")
    Path(saved.path, STATE_FILE).unlink()
    assert "newest checkpoint already" in holdfast("rollback", f"{saved.path}@10").stdout
    assert _kinds(saved).count("rollback") == 1
    assert listed_prefixes(saved.store)[-1].startswith("ckpt-10.")


def test_nobody_is_sent_to_a_damaged_one(saved: Any, holdfast: Holdfast) -> None:
    """What cannot be read back, or is marked, is refused. Guards against a next job that passes over it, and takes what
    was to be given up."""
    state = read_run(saved.store)
    assert state is not None
    first = state.checkpoints[0]
    (data,) = Path(saved.path, first.folder).glob("*.data-00000-of-00002")
    sound = data.read_bytes()
    data.write_bytes(bytes([sound[0] ^ 1]) + sound[1:])
    result = holdfast("rollback", f"{saved.path}@10")
    assert (result.exit_code, "is damaged" in result.stderr) == (1, True), result.output
    data.write_bytes(sound)
    _add(saved, lambda state: state.condemn([first.prefix]))
    result = holdfast("rollback", f"{saved.path}@10")
    assert (result.exit_code, "marked as damaged" in result.stderr) == (2, True), result.output
    assert _steps(saved) == [10, 20]
    assert "rollback" not in _kinds(saved)


def test_a_delta_brings_what_it_needs(run_directory: Any, holdfast: Holdfast) -> None:
    """A delta is rolled back to with its chain. Guards against stock readers that are led to what was given up."""
    full = run_directory.save(10, 1)
    delta = run_directory.save_delta(20, 2, full)
    run_directory.log(full, delta, run_directory.save_delta(30, 3, delta), run_directory.save(40, 4))
    assert holdfast("rollback", f"{run_directory.path}@20").exit_code == 0
    assert _steps(run_directory) == [30, 40, 10, 20]
    assert listed_prefixes(run_directory.store)[-1] == full.prefix


def test_what_tensorflow_has_saved_since_is_given_up_too(saved: Any, holdfast: Holdfast) -> None:
    """What only TensorFlow's file names is older afterwards, and known. Guards against a manager's later checkpoint
    that stays the newest, since the log has never heard of it."""
    (saved.path / "ckpt-7.index").touch()
    (saved.path / STATE_FILE).write_text(
        'model_checkpoint_path: "ckpt-7"\nall_model_checkpoint_paths: "ckpt-7"\nall_model_checkpoint_timestamps: 5e9\n'
    )
    assert _steps(saved) == [10, 20, 7]
    result = holdfast("rollback", f"{saved.path}@10")
    assert "2 checkpoints" in result.stdout
    assert _steps(saved) == [20, 7, 10]
    last = Log(saved.store).tail()
    assert last is not None
    assert [record.step for record in last.state.checkpoints] == [20, 7, 10]
    (saved.path / STATE_FILE).write_bytes(state_file.to_bytes(replace(last.state, past=Past())))
    assert _steps(saved) == [20, 7, 10], "whoever writes the file late"


@pytest.mark.parametrize("command", ["rollback", "rm"])
def test_mistakes_are_told_in_a_sentence(command: str, saved: Any, holdfast: Holdfast, tmp_path: Path) -> None:
    """A mistake is one sentence with status 2, and no entry is made. Guards against a traceback, and a command that
    takes the newest where nothing is named."""
    (tmp_path / "stock").mkdir()
    (tmp_path / "stock" / "ckpt-7.index").touch()
    for target, told in (
        (saved.path, "names no checkpoint"),
        (f"{saved.path}@30", "there is no checkpoint of step 30"),
        (f"{tmp_path}/nowhere@10", "does not exist"),
    ):
        result = holdfast(command, target)
        assert (result.exit_code, told in result.stderr, result.stderr.count("\n")) == (2, True, 1), result.output
    assert holdfast(command, f"{tmp_path}/stock@7").exit_code != 0
    _add(saved, lambda state: state.move("s3://bucket/run"))
    result = holdfast(command, f"{saved.path}@10")
    assert (result.exit_code, "was moved to s3://bucket/run" in result.stderr) == (2, True), result.output
    assert _kinds(saved) == ["commit", "commit"]
