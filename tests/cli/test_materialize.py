"""`holdfast materialize`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from holdfast_storage.checkpoint.materialize import Materializing
from holdfast_storage.errors import StorageError
from holdfast_storage.log.log import Log

from .conftest import RunDirectory

Holdfast = Callable[..., Result]
HoldfastJson = Callable[..., Any]


def with_delta(run: RunDirectory) -> None:
    """A run with a full step 10 and a delta 20 on it."""
    full = run.save(10, 1)
    run.log(full, run.save_delta(20, 2, full))


def test_a_delta_becomes_a_checkpoint_of_tensorflow(
    run_directory: RunDirectory, holdfast: Holdfast, holdfast_json: HoldfastJson, tmp_path: Path
) -> None:
    """The prefix is printed, alone, and what is there is whole and sound. Guards against output that no script can
    use."""
    with_delta(run_directory)
    result = holdfast("materialize", run_directory.path, tmp_path / "out")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{tmp_path}/out/ckpt-20\n", "")
    assert holdfast_json("verify", tmp_path / "out")["good"]
    (shown,) = [t for t in holdfast_json("show", tmp_path / "out")["tensors"] if t["key"].startswith("kernel")]
    assert shown["shape"] == [4, 2]
    piece = shown["stored"][0]
    data = (tmp_path / "out" / piece["object"]).read_bytes()[piece["offset"] :]
    assert struct.unpack("<4f", data[:16]) == (0.0, 1.0, 0.0, 20.0)  # the row that has changed is the second


def test_what_is_read_is_leased(
    run_directory: RunDirectory, holdfast: Holdfast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention finds a lease of the step while it is read, and none afterwards, also if it failed. Guards against a
    job that removes a chain while it is copied, and against one that keeps it for hours after."""
    with_delta(run_directory)
    log, seen = Log(run_directory.store), []

    def look(checkpoint: Materializing, url: str, progress: Any) -> str:
        entry = log.tail()
        assert entry is not None
        seen.extend(lease.prefix for lease in entry.state.leases)
        raise StorageError("no room")

    monkeypatch.setattr(Materializing, "write", look)
    assert holdfast("materialize", run_directory.path, tmp_path / "out").exit_code == 1
    assert seen == ["ckpt-20.0a1b2c3d.2/ckpt-20"]
    entry = log.tail()
    assert entry is not None
    assert (entry.kind, entry.state.leases) == ("release", ())


def test_a_full_step_by_number(run_directory: RunDirectory, holdfast: Holdfast, tmp_path: Path) -> None:
    """RUN@STEP chooses the step, which may be full. Guards against a command that needs to be told what is what."""
    with_delta(run_directory)
    result = holdfast("materialize", f"{run_directory.path}@10", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}/out/ckpt-10\n")


def test_mistakes_are_told_in_a_sentence(run_directory: RunDirectory, holdfast: Holdfast, tmp_path: Path) -> None:
    """A step that is not there, and a folder that is taken, are wrong use. Guards against a traceback, and against a
    folder that is overwritten."""
    with_delta(run_directory)
    result = holdfast("materialize", f"{run_directory.path}@15", tmp_path / "out")
    assert (result.exit_code, "no checkpoint of step 15" in result.stderr) == (2, True)
    result = holdfast("materialize", run_directory.path, run_directory.path)
    assert (result.exit_code, "holds _holdfast/ already" in result.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


def test_damage_and_retention_are_told_apart(run_directory: RunDirectory, holdfast: Holdfast, tmp_path: Path) -> None:
    """A base that is missing is told by name, with status 1. Guards against a copy without what its base had."""
    with_delta(run_directory)
    (run_directory.path / "ckpt-10.0a1b2c3d.1/ckpt-10.data-00001-of-00002").unlink()
    result = holdfast("materialize", run_directory.path, tmp_path / "out")
    assert result.exit_code == 1
    assert "ckpt-10.0a1b2c3d.1/ckpt-10.data-00001-of-00002 is missing" in result.stderr
    assert not list((tmp_path / "out").glob("*.index"))
