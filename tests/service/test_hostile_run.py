"""Jobs in a run directory that somebody else may write to: nothing outside of it changes, and nothing waits."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast_storage.errors import CheckpointDamaged, HoldfastError, StorageError
from holdfast_storage.layout import HINT, STATE_FILE, attempt_folder, index_object, log_entry, manifest_object
from holdfast_storage.log.log import Log
from holdfast_storage.records import Entry
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store
from support.coordinators import Coordinator, StartCoordinator
from support.light_worker import LightWorker, World, committed, outcomes


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Another user's folder."""
    folder = tmp_path / "thesis"
    (folder / "log").mkdir(parents=True)
    (folder / "chapter-1.tex").write_text("years of work")
    return folder


def untouched(outside: Path) -> bool:
    return sorted(path.name for path in outside.rglob("*")) == ["chapter-1.tex", "log"]


def job(world: World, coordinator: Coordinator, *steps: int, **options: object) -> LightWorker:
    """A job of one worker that restores and saves, and has ended when all its work is done."""
    (worker,) = world(1, coordinator, **options)
    worker.join()
    if (staged := worker.restore()) is not None:
        staged.close()
    for step in steps:
        assert outcomes([worker.save(step)]) == [None]
    driver = coordinator.server.runs.find(worker.store.url)
    assert driver is not None
    coordinator.run(driver.settle(30.0))
    worker.close()
    return worker


@pytest.mark.parametrize("how", ["orphan", "retired"])
def test_a_link_named_like_an_attempt_is_removed_and_not_followed(
    store: Store, coordinator: Coordinator, world: World, outside: Path, how: str
) -> None:
    """A link with the name of an attempt whose generation is over, or that the log calls retired, is removed, and what
    it names stays. Guards against anybody's folder that a coordinator empties, as its own user, when the next job takes
    the lead."""
    for step in (1, 2):
        job(world, coordinator, step)
    state = read_run(store)
    assert state is not None
    name = attempt_folder("ckpt", 9, state.superseded[0], 9)
    os.symlink(outside, f"{store.url}/{name}")
    if how == "retired":
        last = Log(store).tail()
        assert last is not None
        entry = Entry(last.number + 1, "retire", "x.1", last.time, replace(state, retired=(*state.retired, name)))
        Log(store).publish(entry, 0.0)
    job(world, coordinator, 3)
    assert not os.path.lexists(f"{store.url}/{name}")
    assert untouched(outside)
    assert [record.step for record in committed(store)] == [1, 2, 3]


def test_a_run_directory_that_becomes_a_link_after_the_join(
    start: StartCoordinator, world: World, tmp_path: Path, store: Store, outside: Path
) -> None:
    """A run directory that becomes a link while its job runs fails the save, and nothing is written where it leads.
    Guards against a root that confines a coordinator only until the join."""
    coordinator = start(roots=[str(tmp_path)])
    job(world, coordinator, 1)
    (worker,) = world(1, coordinator)
    worker.join()
    os.rename(store.url, f"{store.url}.away")
    os.symlink(outside, store.url)
    (failure,) = outcomes([worker.save(2)])
    assert f"{store.url} is a symbolic link" in str(failure)
    assert untouched(outside)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def giant(path: Path) -> None:
    path.touch()
    os.truncate(path, 2 << 40)


def large(path: Path) -> None:
    """More than any hint has, and no more than memory has."""
    path.touch()
    os.truncate(path, 17 << 20)


def link(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("put", [fifo, giant, link])
@pytest.mark.parametrize("what", ["log entry", "manifest", "index", "data"])
def test_what_is_no_object_is_an_error_at_once(
    store: Store, coordinator: Coordinator, world: World, put: Callable[[Path], None], what: str
) -> None:
    """A FIFO, two terabytes or a link in the place of an object is an error of the join or the restore that names it.
    Guards against a job that waits for ever, or takes all memory of a host that others use as well."""
    job(world, coordinator, 1)
    (record,) = committed(store)
    names = {
        "log entry": log_entry(len(store.list("_holdfast/log"))),
        "manifest": manifest_object(record.folder),
        "index": index_object(record.prefix),
        "data": f"{record.prefix}.data-00000-of-00001",
    }
    path = Path(store.url, names[what])
    path.unlink(missing_ok=True)
    put(path)
    (worker,) = world(1, coordinator)

    def begin() -> None:
        worker.join()
        worker.restore()

    with pytest.raises(HoldfastError, match=names[what]) as raised:
        begin()
    assert raised.type in (StorageError, CheckpointDamaged)


@pytest.mark.parametrize("put", [fifo, giant, large, link, Path.mkdir])
def test_a_job_needs_no_hint(store: Store, world: World, put: Callable[[Path], None]) -> None:
    """What is in the place of the hint does not keep a job from saving. Guards against a file that is only a hint and
    stops a run."""
    Path(store.url, HINT).parent.mkdir(parents=True)
    put(Path(store.url, HINT))
    (worker,) = world(1)
    worker.join()
    assert outcomes([worker.save(1)]) == [None]
    worker.close()


def test_a_state_file_that_is_a_link_is_replaced(
    store: Store, coordinator: Coordinator, world: World, outside: Path
) -> None:
    """TensorFlow's state file is written in the place of a link, and not through it. Guards against a file of the user
    that is overwritten with the names of checkpoints."""
    job(world, coordinator, 1)
    state_file = Path(store.url, STATE_FILE)
    state_file.unlink()
    state_file.symlink_to(outside / "chapter-1.tex")
    job(world, coordinator, 2)
    assert not state_file.is_symlink()
    assert "ckpt-2" in state_file.read_text()
    assert (outside / "chapter-1.tex").read_text() == "years of work"


def test_a_checkpoint_behind_a_link_is_not_forgotten(
    store: Store, coordinator: Coordinator, world: World, tmp_path: Path
) -> None:
    """A copied run whose only checkpoint lies behind a link is an error, and not a new run. Guards against a training
    that starts from scratch since its user has moved the checkpoint to a larger disk."""
    job(world, coordinator, 1)
    (record,) = committed(store)
    shutil.rmtree(f"{store.url}/_holdfast")
    os.unlink(f"{store.url}/{STATE_FILE}")
    shutil.move(f"{store.url}/{record.folder}", tmp_path / "larger")
    os.symlink(tmp_path / "larger", f"{store.url}/{record.folder}")
    with pytest.raises(StorageError, match=f"{record.folder} is a symbolic link"):
        read_run(store)
