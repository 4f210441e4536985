"""Agreeing on what to restore: all of it, the same on all, and never anything damaged."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from holdfast.restoring.staging import Staged
from holdfast_coordinator.core.membership import LOST_AFTER
from holdfast_storage import lag
from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.index import full_record, write_index
from holdfast_storage.errors import CheckpointDamaged, CoordinatorUnavailable, InvalidRequest, StorageError
from holdfast_storage.layout import OWN_FOLDER
from holdfast_storage.records import CheckpointRecord, LogState
from holdfast_storage.run_directory import read_run
from holdfast_storage.stock import state_file
from holdfast_storage.stock.state_file import to_bytes
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
from support.passing_time import PassingTime


@pytest.fixture(autouse=True)
def _nothing_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lag, "LAG", 0.0)


@pytest.fixture
def records(store: Store, coordinator: Coordinator, world: World) -> list[CheckpointRecord]:
    """Three checkpoints, saved by two workers that have ended."""
    workers = world(2, coordinator)
    all_join(workers)
    for step in (1, 2, 3):
        assert outcomes([worker.save(step) for worker in workers]) == [None, None]
    for worker in workers:
        worker.close()
    return committed(store)


def restore(workers: list[LightWorker], target: str = "") -> list[Staged | Exception | None]:
    return together([lambda w=worker: w.restore(target) for worker in workers])  # type: ignore[misc]


def prefixes(results: list[Staged | Exception | None]) -> list[str]:
    found = []
    for result in results:
        assert isinstance(result, Staged), result
        with result:
            found.append(result.record.prefix)
    return found


def damage(store: Store, record: CheckpointRecord, suffix: str = ".data-00000-of-00002") -> None:
    path = Path(store.url, record.prefix + suffix)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def write_stock(store: Store, prefix: str) -> None:
    """A checkpoint as TensorFlow leaves it: one number."""
    key, entry = full_record("v", 1, [1], shard=0, offset=0, size=4, crc32c=mask(crc32c(bytes(4))))
    store.write(f"{prefix}.data-00000-of-00001", [bytes(4)])
    store.write(f"{prefix}.index", [write_index(1, [(key, entry.SerializeToString())])])


def test_where_there_is_nothing_nothing_is_restored(store: Store, coordinator: Coordinator, world: World) -> None:
    """Without a checkpoint nothing is restored or written. Guards against a new job that does not start, or that writes
    where it only looked."""
    workers = world(3, coordinator)
    all_join(workers)
    assert restore(workers) == [None] * 3
    assert store.list() == [f"{OWN_FOLDER}/"]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_all_get_the_newest(coordinator: Coordinator, world: World, records: list[CheckpointRecord], size: int) -> None:
    """All workers get the newest checkpoint. Guards against workers that go on from different steps."""
    workers = world(size, coordinator)
    all_join(workers)
    assert prefixes(restore(workers)) == [records[2].prefix] * size


@pytest.mark.parametrize("target", ["2", "prefix", "path"])
def test_one_can_be_chosen(
    store: Store, coordinator: Coordinator, world: World, records: list[CheckpointRecord], target: str
) -> None:
    """A checkpoint can be chosen, and stays chosen. Guards against a rollback to something else, or one that the first
    crash undoes."""
    workers = world(2, coordinator)
    all_join(workers)
    wanted = {"2": "2", "prefix": records[1].prefix, "path": f"{store.url}/{records[1].prefix}"}[target]
    assert prefixes(restore(workers, wanted)) == [records[1].prefix] * 2
    if target != "path":
        assert outcomes([worker.save(9) for worker in workers]) == [None, None]
        assert [record.step for record in committed(store)] == [1, 3, 2, 9]


def test_what_tensorflows_manager_saved_since(
    store: Store,
    coordinator: Coordinator,
    world: World,
    records: list[CheckpointRecord],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What TensorFlow's manager has saved since is restored. Guards against rolling back steps in between, and
    forgetting its files."""
    foreign = CheckpointRecord("ckpt-8", 8, 1e10, stock=True)
    write_stock(store, foreign.prefix)
    store.replace("checkpoint", to_bytes(LogState("", checkpoints=(records[2], foreign))))
    before = log_kinds(store)
    workers = world(2, coordinator)
    all_join(workers)
    assert prefixes(restore(workers)) == [foreign.prefix] * 2
    assert log_kinds(store) == before, "who only restores writes nothing"
    assert outcomes([worker.save(9) for worker in workers]) == [None, None]
    assert [record.prefix for record in committed(store)[:-1]] == [*(r.prefix for r in records), foreign.prefix]
    assert log_kinds(store) == [*before, "lead", "commit"]
    assert state_file.read(store).paths[-2:] == (foreign.prefix, committed(store)[-1].prefix)
    assert sum("has saved since Holdfast last did" in each.getMessage() for each in caplog.records) == 1


@pytest.mark.parametrize("suffix", [".data-00000-of-00002", ".index"])
def test_a_damaged_one_is_passed_over_by_all(
    *,
    store: Store,
    coordinator: Coordinator,
    world: World,
    records: list[CheckpointRecord],
    suffix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A damaged checkpoint is passed over by all, with the reason. Guards against one worker that goes back alone."""
    damage(store, records[2], suffix)
    Path(store.url, records[1].folder, "manifest.json").unlink()
    workers = world(2, coordinator)
    all_join(workers)
    assert prefixes(restore(workers)) == [records[0].prefix] * 2
    said = " ".join(record.getMessage() for record in caplog.records)
    assert said.count("passed over a damaged checkpoint: " + records[2].prefix) == 2
    assert f"{records[1].prefix}" in said
    assert log_kinds(store) == ["import", "lead", "commit", "commit", "commit"]


def test_nothing_good_is_an_error_and_not_a_start_from_scratch(
    store: Store, coordinator: Coordinator, world: World, records: list[CheckpointRecord]
) -> None:
    """If no checkpoint is good, that is an error. Guards against weeks of training that silently begin again."""
    for record in records:
        damage(store, record)
    workers = world(2, coordinator)
    all_join(workers)
    for result in restore(workers):
        assert isinstance(result, CheckpointDamaged)
        assert all(record.prefix in str(result) for record in records)
    assert len(read_run(store).checkpoints) == 3  # type: ignore[union-attr]


def test_what_one_worker_cannot_read_is_not_damaged(
    store: Store, coordinator: Coordinator, world: World, records: list[CheckpointRecord]
) -> None:
    """What one worker cannot read is not damaged. Guards against one host without credentials that makes the job go
    back."""
    workers = world(2, coordinator)
    all_join(workers)
    gate = Gate("read", "manifest.json")
    gate.fail(StorageError("Could not read /x: Permission denied", object="/x"))
    workers[1].store = GatedStore(store, gate)
    for result in restore(workers):
        assert isinstance(result, StorageError)
        assert "worker-1 cannot read" in str(result)
        assert "Permission denied" in str(result)
        assert result.workers == ("worker-1",)
    workers[1].store = store
    assert prefixes(restore(workers)) == [records[2].prefix] * 2


@pytest.mark.parametrize("target", ["17", "ckpt-9.00000000.1/ckpt-9", "/nowhere/at/all/ckpt-3"])
def test_a_checkpoint_that_does_not_exist_is_an_error(
    coordinator: Coordinator, world: World, records: list[CheckpointRecord], target: str
) -> None:
    """A missing checkpoint is an error. Guards against a mistyped path that starts from scratch."""
    workers = world(2, coordinator)
    all_join(workers)
    for result in restore(workers, target):
        assert isinstance(result, InvalidRequest), result
        assert target in str(result)


def test_workers_that_want_different_ones_are_told(
    coordinator: Coordinator, world: World, records: list[CheckpointRecord]
) -> None:
    """Workers that want different checkpoints are told. Guards against a world whose workers go on from different
    steps."""
    workers = world(2, coordinator)
    all_join(workers)
    results = together([lambda: workers[0].restore("1"), lambda: workers[1].restore("2")])
    for result in results:
        assert isinstance(result, InvalidRequest)
        assert "do not restore the same checkpoint" in str(result)


def test_a_worker_that_does_not_take_part_is_named(
    coordinator: Coordinator, store: Store, world: World, records: list[CheckpointRecord], passing: PassingTime
) -> None:
    """A worker that does not take part is named. Guards against others that wait for ever."""
    workers = world(2, coordinator)
    all_join(workers)

    def give_up() -> None:
        until(lambda: "waiting for worker-1" in coordinator.status(store.url).reason)
        passing.by(60.0)

    error, _ = together([workers[0].restore, give_up])
    assert isinstance(error, CoordinatorUnavailable)
    assert "waiting for worker-1" in str(error)
    assert error.workers == ("worker-1",)


def test_a_worker_that_dies_while_all_agree_is_named(
    store: Store,
    start: StartCoordinator,
    world: World,
    records: list[CheckpointRecord],
    passing: PassingTime,
) -> None:
    """A worker that dies meanwhile is named. Guards against others that wait until a deadline."""
    coordinator = start()
    workers = world(2, coordinator)
    all_join(workers)
    gate = Gate("read", "manifest.json")
    workers[1].store = GatedStore(store, gate)
    threads = [threading.Thread(target=restore, args=([workers[1]],))]
    threads[0].start()
    assert gate.reached.wait(60.0)
    until(lambda: coordinator.attended_by(store.url, 2))
    workers[1].die()
    until(lambda: coordinator.attended_by(store.url, 1))
    passing.by(LOST_AFTER)
    with pytest.raises(CoordinatorUnavailable, match="worker-1") as caught:
        workers[0].restore()
    assert caught.value.workers == ("worker-1",)
    gate.open()
    threads[0].join(60.0)


def test_a_coordinator_restarted_meanwhile_changes_nothing(
    start: StartCoordinator, store: Store, world: World, records: list[CheckpointRecord]
) -> None:
    """A restart of the coordinator changes nothing. Guards against a start from scratch, and applying what others have
    not verified."""
    first = start()
    workers = world(2, first)
    all_join(workers)
    gate = Gate("read", "manifest.json")
    workers[1].store = GatedStore(store, gate)
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.extend(restore(workers)))
    thread.start()
    assert gate.reached.wait(60.0)
    first.stop()
    start(first.address)
    gate.open()
    thread.join(60.0)
    assert prefixes(results) == [records[2].prefix] * 2  # type: ignore[arg-type]


def test_a_checkpoint_of_another_run_can_be_restored(
    coordinator: Coordinator, world: World, records: list[CheckpointRecord], store: Store, tmp_path: Path
) -> None:
    """A checkpoint of another run can be restored. Guards against a fine-tuning job that cannot start from somebody
    else's run."""
    other = open_store(tmp_path / "other")
    workers = world(2, coordinator, store=other)
    all_join(workers)
    assert prefixes(restore(workers, f"{store.url}/{records[1].prefix}")) == [records[1].prefix] * 2
    assert outcomes([worker.save(1) for worker in workers]) == [None, None]
    assert [record.step for record in committed(other)] == [1]
    assert len(committed(store)) == 3


def test_a_world_of_one_restores_without_a_network(store: Store, records: list[CheckpointRecord]) -> None:
    """A world of one restores through its embedded coordinator. Guards against a single process that needs more than
    itself."""
    worker = LightWorker(store, 0, cluster_of(1))
    worker.join()
    assert prefixes([worker.restore()]) == [records[2].prefix]
    worker.close()
