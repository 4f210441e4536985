"""Jobs that cannot work say so, on every worker, within a bounded time, and write nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast_storage.layout import HINT, KEY, OWN_FOLDER, parse_folder
from support.coordinator_process import coordinator
from support.ports import free_address
from support.small_disk import not_permitted

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]

WITHIN = 20.0
"""Seconds: the join timeout and a busy machine."""

PATIENT = {"join_timeout": 7.0}
"""Long enough for the coordinator to say whom it waits for."""


def attempts(run: Path) -> list[str]:
    return [f.name for f in run.iterdir() if parse_folder(f.name)] if run.is_dir() else []


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("where", ["below a file", "/sys/holdfast"])
def test_a_directory_that_cannot_be_written(worlds: Any, tmp_path: Path, size: int, where: str) -> None:
    """A directory that cannot be written is an error at the first save. Guards against hours of training of which
    nothing is saved."""
    (tmp_path / "file").write_text("not a folder")
    run = str(tmp_path / "file" / "run") if where == "below a file" else where
    for failure in worlds.get(size).run("wrong.job", directory=run):
        assert failure["call"] in ("restore", "save")
        assert failure["seconds"] < WITHIN
        assert run in failure["message"]
    assert (tmp_path / "file").read_text() == "not a folder"


def test_nothing_listens_at_the_address(worlds: Any, tmp_path: Path) -> None:
    """An address where nobody listens is an error. Guards against a mistyped address that silently hangs the job."""
    address = free_address()
    for failure in worlds.get(2).run("wrong.job", directory=str(tmp_path / "run"), coordinator=address):
        assert failure["call"] == "restore"
        assert failure["type"] == "CoordinatorUnavailable"
        assert f"no coordinator answers at {address}" in failure["message"]
        assert 3.0 <= failure["seconds"] < WITHIN
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_does_not_exist(worlds: Any, tmp_path: Path) -> None:
    """A missing checkpoint is an error on all workers. Guards against a mistyped path that starts from scratch, and a
    worker that waits for one that failed."""
    run = tmp_path / "run"
    wanted = [str(run / "ckpt-9"), str(tmp_path / "other" / "ckpt-9"), 9]
    for failures in worlds.get(2).run("wrong.restore", directory=str(run), wanted=wanted):
        for failure, what in zip(failures, wanted, strict=True):
            assert failure["type"] == "InvalidRequest"
            assert str(what) in failure["message"]
            assert failure["seconds"] < WITHIN
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("apart", [False, True], ids=["embedded", "coordinator apart"])
def test_clusters_that_differ(worlds: Any, tmp_path: Path, apart: bool) -> None:
    """Clusters that differ are an error on all workers. Guards against a worker with an old TF_CONFIG and others that
    wait for each other."""
    with coordinator(tmp_path, start=apart) as address:
        run = tmp_path / "run"
        failures = worlds.get(2).run("wrong.another_cluster", directory=str(run), coordinator=address, **PATIENT)
    assert all(failure["call"] == "restore" and failure["seconds"] < WITHIN for failure in failures)
    assert "127.0.0.1:9" in failures[1]["message"]
    assert "cluster" in failures[1]["message"]
    if apart:
        assert all(failure["type"] == "InvalidRequest" for failure in failures)
        assert failures[0]["message"] == failures[1]["message"]
    else:
        assert "waiting for worker-1 to join" in failures[0]["message"]
    assert not attempts(run)


@pytest.mark.parametrize("apart", [False, True], ids=["embedded", "coordinator apart"])
def test_directories_that_differ(worlds: Any, tmp_path: Path, apart: bool) -> None:
    """Directories that differ are named. Guards against a relative path that leads each worker to its own directory,
    where all wait."""
    runs = [tmp_path / "a", tmp_path / "b"]
    with coordinator(tmp_path, start=apart) as address:
        directories = [str(run) for run in runs]
        failures = worlds.get(2).run("wrong.job", directory=directories, coordinator=address, **PATIENT)
    for failure, run in zip(failures, runs, strict=True):
        assert failure["call"] == "restore"
        assert failure["type"] == "CoordinatorUnavailable"
        assert failure["seconds"] < WITHIN
        assert str(run) in failure["message"]
        assert "all workers have the same" in failure["message"]
        assert "TensorFlow's tutorials give all but the chief another one" in failure["message"]
        assert not attempts(run)


def test_storage_that_the_coordinator_does_not_see(worlds: Any, tmp_path: Path) -> None:
    """Storage that the coordinator does not see is an error before anything is written. Guards against workers that
    learn of it when the save has failed."""
    root = "memory://shared"
    with coordinator(tmp_path, root=root) as address:
        told = worlds.get(2).run("wrong.another_storage", directory=f"{root}/run", coordinator=address, **PATIENT)
    for each in told:
        failure = each["failure"]
        assert failure["call"] == "restore"
        assert f"the coordinator sees no {KEY} in {root}/run" in failure["message"]
        assert "the same storage mounted" in failure["message"]
        assert failure["seconds"] < WITHIN
        assert each["written"] == [f"{OWN_FOLDER}/"]


@pytest.mark.parametrize("apart", [False, True], ids=["embedded", "coordinator apart"])
def test_one_worker_has_another_file_system_mounted(worlds: Any, tmp_path: Path, apart: bool) -> None:
    """A worker with another file system is named. Guards against a part of every checkpoint that is written beside the
    others."""
    run = tmp_path / "run"
    run.mkdir()
    with coordinator(tmp_path, start=apart) as address:
        failures = worlds.get(2).run("wrong.another_mount", directory=str(run), coordinator=address, **PATIENT)
    if failures[1]["call"] == "not permitted":
        not_permitted("to mount a file system")
    if apart:
        assert f"does not prove that it reads the key of {run}" in failures[1]["message"]
        assert "it sees another directory there" in failures[1]["message"]
    else:
        assert str(run / HINT) in failures[1]["message"]
        assert "have the same storage mounted" in failures[1]["message"]
    for failure in failures:
        assert failure["call"] == "restore"
        assert "worker-1" in failure["message"]
        assert failure["seconds"] < WITHIN
    assert not [f for name in attempts(run) for f in (run / name).rglob("*.index")]
