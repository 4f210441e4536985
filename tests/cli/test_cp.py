"""`holdfast cp`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from holdfast_storage.copying import Copying
from holdfast_storage.log.log import Log

from .conftest import RunDirectory

Holdfast = Callable[..., Result]
HoldfastJson = Callable[..., Any]


def steps(found: Any) -> list[int]:
    return [each["step"] for each in found["checkpoints"]]


def test_a_run_and_a_step(
    run_directory: RunDirectory, holdfast: Holdfast, holdfast_json: HoldfastJson, tmp_path: Path
) -> None:
    """Without a step all is copied but what is known to be damaged; with one, it and its chain. The copy is a run.
    Guards against a delta without its base."""
    full = run_directory.save(10, 1)
    delta = run_directory.save_delta(20, 2, full)
    bad, last = run_directory.save(30, 3), run_directory.save(40, 4)
    run_directory.log(full, delta, bad, last, damaged=(bad.prefix,))
    result = holdfast("cp", f"{run_directory.path}@20", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}/out: 1 checkpoint of {run_directory.path}\n")
    assert steps(holdfast_json("verify", tmp_path / "out")) == [10, 20]
    assert holdfast("cp", run_directory.path, tmp_path / "out").exit_code == 0
    assert (
        steps(holdfast_json("verify", tmp_path / "out")) == steps(holdfast_json("ls", tmp_path / "out")) == [10, 20, 40]
    )
    assert holdfast_json("diff", run_directory.path, tmp_path / "out")["equal"]
    assert holdfast("cp", tmp_path / "out", tmp_path / "again").exit_code == 0
    assert steps(holdfast_json("ls", tmp_path / "again")) == [10, 20, 40]


def test_mistakes(saved: RunDirectory, holdfast: Holdfast, tmp_path: Path) -> None:
    """A step that is not there, and a directory that is taken, are wrong use; damage is status 1. Guards against a
    traceback, and against a run that is written to."""
    assert holdfast("cp", f"{saved.path}@15", tmp_path / "out").exit_code == 2
    result = holdfast("cp", saved.path, saved.path)
    assert (result.exit_code, "holds _holdfast already" in result.stderr) == (2, True)
    (path,) = saved.path.glob("ckpt-20.*/*.data-00001-of-00002")
    path.write_bytes(bytes(16))
    result = holdfast("cp", saved.path, tmp_path / "out")
    assert (result.exit_code, path.name in result.stderr) == (1, True)


def test_beside_a_job(saved: RunDirectory, holdfast: Holdfast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is copied has a lease, and what a job has removed before is passed over. Guards against a copy that fails
    because the run goes on."""
    log, seen, copy = Log(saved.store), [], Copying.copy

    def look(copying: Copying, record: Any, progress: Any) -> None:
        entry = log.tail()
        assert entry is not None
        seen.extend(lease.prefix for lease in entry.state.leases)
        copy(copying, record, progress)
        saved.log(record, number=entry.number + 1)

    monkeypatch.setattr(Copying, "copy", look)
    result = holdfast("cp", saved.path, tmp_path / "out")
    assert (result.exit_code, seen) == (0, ["ckpt-20.0a1b2c3d.2/ckpt-20"])
    assert "1 checkpoint had been removed by the job that trains there" in result.stdout
