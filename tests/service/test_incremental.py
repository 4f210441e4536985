"""Incremental saves by several workers: which are deltas, what they hold, and what makes the next one full."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from holdfast.saving.save import Save
from holdfast.saving.snapshot import Snapshot
from holdfast_storage.checkpoint.manifest import read_manifest
from holdfast_storage.checkpoint.verify import Problem, Report
from holdfast_storage.errors import StorageError
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store
from support.bundles import expected, stored
from support.deltas import merged, touched
from support.light_worker import LightWorker, World, all_join, outcomes, state

TABLE = "model/kernel"


def saves(workers: Sequence[LightWorker], step: int, snapshots: Sequence[Snapshot]) -> list[Save]:
    return [worker.save(step, each) for worker, each in zip(workers, snapshots, strict=True)]


def alike(workers: Sequence[LightWorker], step: int, snapshot: Snapshot) -> None:
    """All workers save the same, which is committed."""
    assert outcomes(saves(workers, step, [snapshot] * len(workers))) == [None] * len(workers)


def bases(store: Store) -> list[int | None]:
    """Of each checkpoint, oldest first, the step of the one that it is a delta on; None: it is full."""
    run = read_run(store)
    assert run is not None
    steps = {record.prefix: record.step for record in run.checkpoints}
    return [steps[record.base] if record.base else None for record in run.checkpoints]


def test_deltas_are_committed_between_full_ones(each_store: Store, world: World) -> None:
    """Between full checkpoints there are deltas, each with the rows that have changed since the one before it. Guards
    against a row that a worker takes for saved because an earlier delta has it not."""
    workers = world(3, store=each_store, full_every=4)
    all_join(workers)
    states = [state()]
    for step in range(1, 6):
        states.append(touched(states[-1], {TABLE: range(step, 2000, 100 * step)}))
    for step, saved in enumerate(states):
        alike(workers, step, saved)
    assert bases(each_store) == [None, 0, 1, 2, None, 4]
    run = read_run(each_store)
    assert run is not None
    for step, record in enumerate(run.checkpoints):
        whole = {key: data for key, data in expected(states[step]).items() if key in {t.key for t in states[0].tensors}}
        if record.base:
            assert merged(each_store, record.prefix, states[step - 1]) == whole
            assert read_manifest(each_store, record).size < 100_000
        else:
            assert stored(each_store, record.prefix) == expected(states[step])


def test_after_a_save_that_failed_all_is_saved(store: Store, world: World) -> None:
    """The save after one that failed is full, and so is the one after a restore. Guards against a delta on rows that
    nobody has committed, or that are not in the variables any more."""
    workers = world(2, full_every=10)
    all_join(workers)
    alike(workers, 1, state())
    alike(workers, 2, state())
    broken = [
        worker.save(3, state(), local_error=StorageError("no") if n else None) for n, worker in enumerate(workers)
    ]
    assert None not in outcomes(broken)
    alike(workers, 4, state())
    alike(workers, 5, state())
    for worker in workers:
        assert worker.increments is not None
        worker.increments.forget()  # as a restore does
    alike(workers, 6, state())
    assert bases(store) == [None, 1, None, 4, None]


def test_workers_that_do_not_agree_are_refused_by_name(store: Store, world: World) -> None:
    """If not all workers save the same changes, none does, and they are named. Guards against a checkpoint half of
    which is on another base."""
    workers = world(2, full_every=10)
    workers[1].increments = None
    all_join(workers)
    alike(workers, 1, state())
    for error in outcomes(saves(workers, 2, [state()] * 2)):
        assert "worker-0 saves a delta on ckpt-1" in str(error)
        assert "worker-1 a full checkpoint" in str(error)
    alike(workers, 3, state())
    assert bases(store) == [None, None]


def test_a_plan_that_changes_makes_a_save_full(store: Store, world: World) -> None:
    """If the verdict of the vote moves what each worker writes, a save that was to be a delta is full. Guards against
    pieces that are on nothing, and against failing the second save of every model with batch statistics."""
    workers = world(3, full_every=10)
    all_join(workers)
    local = ["z-statistic"]
    alike(workers, 1, state(own=0, local=local))
    own = [state(own=number, local=local) for number in range(3)]
    assert outcomes(saves(workers, 2, own)) == [None] * 3
    assert outcomes(saves(workers, 3, own)) == [None] * 3
    assert bases(store) == [None, None, 2]


def test_on_what_cannot_be_read_back_nothing_is_built(
    store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the last commit cannot be read back, the next save is full, and none is lost. Guards against 20 checkpoints
    that all need one which is damaged."""
    (worker,) = workers = world(1, full_every=2, max_to_keep=1)
    all_join(workers)
    alike(workers, 1, state())
    alike(workers, 2, state())
    with monkeypatch.context() as patch:
        bad = Report("", 0, 0, (Problem("ckpt-3.data-00000-of-00001", "damaged", "a bit has flipped"),))
        patch.setattr("holdfast_coordinator.driver.verify_checkpoint", lambda *_, **__: bad)
        alike(workers, 3, state())  # replaces both, and so is read back
        worker.session.await_upkeep()
    assert bases(store) == [None, 1, None]
    alike(workers, 4, state())
    worker.session.await_upkeep()
    alike(workers, 5, state())
    assert bases(store) == [None, 4]
