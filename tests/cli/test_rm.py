"""`holdfast rm`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from holdfast_storage import intervening
from holdfast_storage.errors import StorageError
from holdfast_storage.layout import STATE_FILE
from holdfast_storage.log.log import Log, Published
from holdfast_storage.records import Entry, Lease, LogState, Pin
from holdfast_storage.run_directory import read_run
from holdfast_storage.stock.state_file import listed_prefixes
from holdfast_storage.store import open_store
from support.faulty_store import FaultyStore

Holdfast = Callable[..., Result]


def _state(run: Any) -> LogState:
    state = read_run(run.store)
    assert state is not None
    return state


def _folders(run: Any) -> list[str]:
    return sorted(path.name for path in Path(run.path).iterdir() if path.name.startswith("ckpt-"))


def test_a_checkpoint_is_removed(saved: Any, holdfast: Holdfast) -> None:
    """It is not in the log, not in TensorFlow's file, and its folder is gone; the others are as they were. Guards
    against a list that names what is not there, and a folder that nobody deletes."""
    first, second = _state(saved).checkpoints
    result = holdfast("rm", f"{saved.path}@10")
    assert (result.exit_code, result.stdout) == (0, f"{saved.path}@10 is removed\n")
    state = _state(saved)
    assert (state.checkpoints, state.retired) == ((second,), (first.folder,))
    assert _folders(saved) == [second.folder]
    assert listed_prefixes(saved.store) == [second.prefix]
    assert holdfast("verify", saved.path).exit_code == 0
    assert holdfast("rm", f"{saved.path}@10").exit_code == 0, "as often as somebody likes"


def test_two_checkpoints_of_a_step(run_directory: Any, holdfast: Holdfast) -> None:
    """The latest of a step is removed. If its folder could not be deleted, the same command deletes that, and the older
    one stays. Guards against a command that is repeated, as it says, and removes another checkpoint."""
    older, latest = run_directory.save(20, 1), run_directory.save(20, 2)
    run_directory.log(older, latest, run_directory.save(30, 3))
    store = FaultyStore(run_directory.store, {("delete_folder", 0): "refuse"})
    with pytest.raises(StorageError):
        intervening.remove(store, lambda state: state.checkpoints[1])
    assert latest.folder in _folders(run_directory)
    assert "was removed before" in holdfast("rm", f"{run_directory.path}@20").stdout
    assert latest.folder not in _folders(run_directory)
    assert older in _state(run_directory).checkpoints
    assert holdfast("rm", f"{run_directory.path}@20").exit_code == 0, "now the older one is meant"
    assert older.folder not in _folders(run_directory)


def test_what_must_stay_stays(run_directory: Any, holdfast: Holdfast) -> None:
    """What is pinned, read, needed, newest or TensorFlow's is refused by name, and stays. Guards against a command that
    deletes what was promised to somebody."""
    full = run_directory.save(10, 1)
    delta, pinned, leased = run_directory.save_delta(20, 2, full), run_directory.save(30, 3), run_directory.save(40, 4)
    run_directory.log(full, delta, pinned, leased, run_directory.save(50, 5))
    state = _state(run_directory).pin(Pin(pinned.prefix, 0.0, "")).lease(Lease(leased.prefix, "r", 60.0, 1))
    assert Log(run_directory.store).publish(Entry(1, "pin", "a", 0.0, state), 5.0) == Published()
    (run_directory.path / "ckpt-7.index").touch()
    (run_directory.path / STATE_FILE).write_text(
        'model_checkpoint_path: "ckpt-7"\nall_model_checkpoint_paths: "ckpt-7"\nall_model_checkpoint_timestamps: 5e9\n'
    )
    folders, before = _folders(run_directory), _state(run_directory)
    for step, told in (
        (10, "what the incremental save of step 20 needs"),
        (30, "is pinned"),
        (40, "is being read"),
        (50, "is the newest"),
        (7, "was written by TensorFlow"),
    ):
        result = holdfast("rm", f"{run_directory.path}@{step}")
        assert (result.exit_code, told in result.stderr) == (2, True), result.output
    assert (_folders(run_directory), _state(run_directory)) == (folders, before)
    for step in (20, 10):  # in this order
        assert holdfast("rm", f"{run_directory.path}@{step}").exit_code == 0
    assert [record.step for record in _state(run_directory).checkpoints] == [30, 40, 50, 7]


@pytest.mark.parametrize("fails", ["create", "replace", "delete_folder"])
def test_a_removal_that_fails_goes_on(saved: Any, holdfast: Holdfast, fails: str) -> None:
    """Whatever fails, the entry comes first, and the same command brings it to its end. Guards against a checkpoint in
    the list without its folder, and one that no command reaches any more."""
    store = FaultyStore(open_store(saved.path), {(fails, 0): "refuse"})
    with pytest.raises(StorageError):
        intervening.remove(store, lambda state: state.checkpoints[0])
    live = [record.folder for record in _state(saved).checkpoints]
    assert set(live) <= set(_folders(saved))
    assert (len(live) == 2) == (fails == "create")
    assert holdfast("rm", f"{saved.path}@10").exit_code == 0
    assert _folders(saved) == [_state(saved).checkpoints[0].folder]
