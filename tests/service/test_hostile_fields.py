"""Workers in a run with fields that nobody writes: an error of Holdfast's, or the checkpoint is passed over."""

from __future__ import annotations

import pytest

from holdfast_storage.errors import CheckpointDamaged, StorageError
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store
from support.coordinators import Coordinator
from support.hostile import ENTRIES, FOLDER, INDEXES, MANIFESTS, Change, Fields, IndexChange, write_run
from support.light_worker import LightWorker, World, outcomes


@pytest.fixture
def worker(world: World, coordinator: Coordinator) -> LightWorker:
    (worker,) = world(1, coordinator, join_timeout=20.0, save_timeout=20.0)
    return worker


@pytest.mark.parametrize(("change", "told"), ENTRIES.values(), ids=ENTRIES)
def test_entries(store: Store, worker: LightWorker, change: Change, told: str) -> None:
    """In a run whose last entry has an impossible field nobody joins, and the error names the field. Guards against a
    training that starts from scratch or from an older state, and a coordinator that does what the field says."""
    write_run(store, entry=change)
    with pytest.raises(CheckpointDamaged, match=told):
        worker.join()
    assert f"{FOLDER}/" in store.list()


@pytest.mark.parametrize(("change", "told"), MANIFESTS.values(), ids=MANIFESTS)
def test_manifests(store: Store, worker: LightWorker, change: Change, told: str) -> None:
    """A checkpoint with an impossible manifest is damaged, for the worker and for the coordinator, and the next save is
    committed. Guards against two readers that disagree, with which no restore ends."""
    write_run(store, manifest=change)
    is_passed_over(store, worker, told)


@pytest.mark.parametrize(("change", "told"), INDEXES.values(), ids=INDEXES)
def test_indexes(store: Store, worker: LightWorker, change: IndexChange, told: str) -> None:
    """A checkpoint whose index leads to what is not there is damaged, for the worker and for the coordinator, and the
    next save is committed. Guards against terabytes that TensorFlow asks for, in the middle of a restore."""
    write_run(store, index=change)
    is_passed_over(store, worker, told)


def is_passed_over(store: Store, worker: LightWorker, told: str) -> None:
    worker.join()
    with pytest.raises(CheckpointDamaged, match=told):
        worker.restore()
    assert outcomes([worker.save(9)]) == [None]
    state = read_run(store)
    assert state is not None
    assert [record.step for record in state.restorable] == [9]


@pytest.mark.parametrize("size", [1 << 45, 1 << 60, (1 << 63) - 1])
def test_sizes_that_nothing_stands_behind(store: Store, worker: LightWorker, size: int) -> None:
    """An object that is smaller than its manifest says is soon found not to be all there, and the next save is
    committed. Guards against a worker that takes memory for what is not there, and never comes to an end."""

    def larger(fields: Fields) -> Fields:
        return fields | {"objects": [fields["objects"][0] | {"size": size}, fields["objects"][1]]}

    write_run(store, manifest=larger)
    worker.join()
    with pytest.raises(StorageError, match="not all there"):
        worker.restore(timeout=5.0)
    assert outcomes([worker.save(9)]) == [None]
