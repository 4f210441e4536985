"""What saves that never came to their commit leave on storage: there until the next generation leads, then gone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_storage.layout import parse_folder
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store, open_store
from support.coordinators import Coordinator, StartCoordinator
from support.gated_store import Gate, GatedStore
from support.light_worker import (
    LightWorker,
    World,
    all_join,
    cluster_of,
    committed,
    log_kinds,
    outcomes,
    together,
    until,
)


def folders(store: Store) -> set[str]:
    return {name.removesuffix("/") for name in store.list() if parse_folder(name)}


def settle(coordinator: Coordinator, store: Store) -> None:
    """All that the coordinator began has come to its end."""
    driver = coordinator.server.runs.find(store.url)
    assert driver is not None
    coordinator.run(driver.settle(30.0))


def job(world: World, coordinator: Coordinator, store: Store, **options: object) -> list[LightWorker]:
    """A job that goes on from the newest."""
    workers = world(2, coordinator, store=store, **options)
    all_join(workers)
    for result in together([worker.restore for worker in workers]):
        assert not isinstance(result, Exception), result
        if result is not None:
            result.close()
    return workers


@pytest.fixture
def left(each_store: Store, start: StartCoordinator, world: World) -> Iterator[tuple[Store, str, str]]:
    """A run whose first job was killed in mid-save: storage, what it left behind, and its last checkpoint."""
    store, coordinator = each_store, start()
    workers = job(world, coordinator, store)
    assert outcomes([worker.save(1) for worker in workers]) == [None, None]
    gate = Gate("write", "data-00001")
    workers[1].store = GatedStore(store, gate)
    saves = [worker.save(2) for worker in workers]
    assert gate.reached.wait(60.0)
    until(lambda: any(name.startswith("ckpt-2.") for name in folders(store)))
    for worker in workers:
        worker.die()
    coordinator.stop()
    (orphan,) = (name for name in folders(store) if name.startswith("ckpt-2."))
    yield store, orphan, committed(store)[-1].folder
    gate.open()
    for save in saves:
        save.wait(60.0)


def test_it_is_gone_once_the_next_generation_leads(
    left: tuple[Store, str, str], start: StartCoordinator, world: World
) -> None:
    """An orphan is removed once the next generation leads. Guards against a disk full of failed saves, and a reader
    that removes what another may still commit."""
    store, orphan, last = left
    coordinator = start()
    workers = job(world, coordinator, store)
    settle(coordinator, store)
    assert folders(store) == {orphan, last}
    assert outcomes([worker.save(2) for worker in workers]) == [None, None]
    settle(coordinator, store)
    assert orphan not in folders(store)
    assert folders(store) == {record.folder for record in committed(store)}
    assert log_kinds(store) == ["import", "lead", "commit", "lead", "retire", "commit"]


def test_whoever_is_left_behind_finishes_it(
    left: tuple[Store, str, str], start: StartCoordinator, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes later finishes a deletion. Guards against a folder that nobody looks for after a kill between entry
    and deletion."""
    store, orphan, _ = left
    coordinator = start()
    workers = job(world, coordinator, store)
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "delete_folder", lambda _, folder: None if folder != orphan else _refuse(folder))
        assert outcomes([worker.save(2) for worker in workers]) == [None, None]
        settle(coordinator, store)
    assert orphan in folders(store)
    state = read_run(store)
    assert state is not None
    assert orphan in state.retired
    coordinator.stop()
    coordinator = start()
    workers = job(world, coordinator, store)
    assert outcomes([worker.save(3) for worker in workers]) == [None, None]
    settle(coordinator, store)
    assert orphan not in folders(store)


def _refuse(folder: str) -> None:
    raise PermissionError(folder)


def test_a_restarted_coordinator_goes_on_with_it(each_store: Store, start: StartCoordinator, world: World) -> None:
    """A restarted coordinator goes on with the save in flight. Guards against deleting the save that it was started to
    finish."""
    store, coordinator = each_store, start()
    workers = job(world, coordinator, store)
    assert outcomes([worker.save(1) for worker in workers]) == [None, None]
    for worker in workers:
        worker.close()
    workers = job(world, coordinator, store)  # there is a generation before it, whose folders are looked for
    gate = Gate("write", "data-00001")
    workers[1].store = GatedStore(store, gate)
    saves = [worker.save(2) for worker in workers]
    assert gate.reached.wait(60.0)
    coordinator.stop()
    coordinator = start(coordinator.address)
    gate.open()
    assert outcomes(saves) == [None, None]
    settle(coordinator, store)
    assert len(committed(store)) == len(folders(store)) == 2


def test_what_people_put_there_stays(store: Store, coordinator: Coordinator, world: World, tmp_path: Path) -> None:
    """Copies that people put there stay. Guards against deleting a checkpoint of another run, even half copied, or one
    that was copied back."""
    workers = job(world, coordinator, store, max_to_keep=1)
    for step in (1, 2):
        if step == 2:
            shutil.copytree(Path(store.url, committed(store)[0].folder), tmp_path / "backup")
            backup = committed(store)[0].folder
        assert outcomes([worker.save(step) for worker in workers]) == [None, None]
    settle(coordinator, store)
    assert backup not in folders(store), "retired, and deleted"
    for worker in workers:
        worker.close()
    there = ["ckpt-9.0badcafe.9", "ckpt-8.0badcafe.8", backup]
    for name in there:
        shutil.copytree(tmp_path / "backup", Path(store.url, name))
    Path(store.url, there[1], "manifest.json").unlink()
    Path(store.url, backup, "manifest.json").unlink()
    for step in (3, 4):
        workers = job(world, coordinator, store, max_to_keep=1)
        assert outcomes([worker.save(step) for worker in workers]) == [None, None]
        settle(coordinator, store)
        for worker in workers:
            worker.close()
    assert folders(store) == {*there, committed(store)[-1].folder}


def test_a_copy_without_its_log_keeps_all_that_is_in_it(
    left: tuple[Store, str, str], start: StartCoordinator, world: World, tmp_path: Path
) -> None:
    """A copy without its log keeps everything. Guards against a first job that removes what it does not know."""
    store, orphan, last = left
    copy = store
    if "memory" not in store.url:
        shutil.copytree(store.url, tmp_path / "copy", ignore=shutil.ignore_patterns("_holdfast"))
        copy = open_store(tmp_path / "copy")
    else:
        store.delete_folder("_holdfast")
    coordinator = start()
    for step in (2, 3):
        workers = job(world, coordinator, copy)
        assert outcomes([worker.save(step) for worker in workers]) == [None, None]
        settle(coordinator, copy)
        for worker in workers:
            worker.close()
    assert {orphan, last} < folders(copy)
    assert len(folders(copy)) == 4


def test_a_world_of_one_cleans_up_too(left: tuple[Store, str, str]) -> None:
    """A world of one cleans up, too. Guards against an embedded coordinator that ends before that."""
    store, orphan, _ = left
    worker = LightWorker(store, 0, cluster_of(1)).join()
    staged = worker.restore()
    assert staged is not None
    staged.close()
    assert outcomes([worker.save(2)]) == [None]
    worker.close()
    assert orphan not in folders(store)
