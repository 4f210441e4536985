"""Damage that is found by a restore: confirmed by the coordinator, marked by the next save, gone in the end."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest

from holdfast.restoring.staging import Staged
from holdfast_storage.checkpoint.verify import Report, verify_checkpoint
from holdfast_storage.errors import StorageError
from holdfast_storage.records import CheckpointRecord, LogState
from holdfast_storage.run_directory import read_run
from holdfast_storage.stock import state_file
from holdfast_storage.store import Store
from support.coordinators import Coordinator, StartCoordinator
from support.lagging import Clock, LaggingStore
from support.light_worker import LightWorker, World, all_join, committed, log_kinds, outcomes, together, until


@pytest.fixture
def records(store: Store, start: StartCoordinator, world: World) -> list[CheckpointRecord]:
    """Three checkpoints of a job that has ended."""
    coordinator = start()
    workers = world(2, coordinator)
    all_join(workers)
    for step in (1, 2, 3):
        assert outcomes([worker.save(step) for worker in workers]) == [None, None]
    for worker in workers:
        worker.close()
    coordinator.stop()
    return committed(store)


def damage(store: Store, record: CheckpointRecord) -> bytes:
    path = Path(store.url, f"{record.prefix}.data-00001-of-00002")
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    return before


def restart(world: World, coordinator: Coordinator | str = "", **options: object) -> tuple[list[LightWorker], str]:
    """The next job, and what it has restored."""
    workers = world(2, coordinator, **options)
    all_join(workers)
    found = set()
    for result in together([worker.restore for worker in workers]):
        assert isinstance(result, Staged), result
        with result:
            found.add(result.record.prefix)
    (prefix,) = found
    return workers, prefix


def named(store: Store) -> str:
    """What stock TensorFlow takes for the newest."""
    return state_file.read(store).newest


def settle(coordinator: Coordinator, store: Store) -> None:
    """All that the coordinator began has come to its end."""
    driver = coordinator.server.runs.find(store.url)
    assert driver is not None
    coordinator.run(driver.settle(30.0))


def state(store: Store) -> LogState:
    found = read_run(store)
    assert found is not None
    return found


def test_from_the_restore_to_the_end(
    store: Store, coordinator: Coordinator, world: World, records: list[CheckpointRecord]
) -> None:
    """A damaged checkpoint is passed over, marked and finally removed. Guards against stock readers that load it, and
    restarts that try it again."""
    _, good, bad = records
    kinds = log_kinds(store)
    damage(store, bad)
    workers, restored = restart(world, coordinator, max_to_keep=2)
    assert restored == good.prefix
    until(lambda: named(store) == good.prefix)
    assert log_kinds(store) == kinds, "restoring changes nothing in the log"

    assert outcomes([worker.save(4) for worker in workers]) == [None, None]
    settle(coordinator, store)
    # What its two newer saves replace is gone; the damaged one has one newer good one, and is kept for inspection.
    assert log_kinds(store) == [*kinds, "lead", "damaged", "commit", "retire"]
    assert [c.step for c in state(store).checkpoints] == [2, 3, 4]
    assert state(store).damaged == (bad.prefix,)
    assert Path(store.url, bad.folder).is_dir()
    assert bad.prefix not in store.read("checkpoint").decode()

    assert outcomes([worker.save(5) for worker in workers]) == [None, None]
    settle(coordinator, store)
    assert [c.step for c in state(store).checkpoints] == [4, 5]
    assert state(store).damaged == ()
    assert not Path(store.url, bad.folder).exists()


def test_an_embedded_coordinator_confirms_before_it_ends(
    store: Store, world: World, records: list[CheckpointRecord]
) -> None:
    """An embedded coordinator confirms damage before it ends. Guards against a state file that stays as it was because
    a job restores and ends at once."""
    _, good, bad = records
    damage(store, bad)
    workers, restored = restart(world)
    assert restored == good.prefix
    for worker in reversed(workers):
        worker.close()
    assert named(store) == good.prefix


def test_who_looks_at_a_running_job_changes_nothing(
    store: Store, coordinator: Coordinator, start: StartCoordinator, world: World, records: list[CheckpointRecord]
) -> None:
    """Looking at a running job changes nothing. Guards against a notebook that writes into the directory of a job."""
    job, _ = restart(world, coordinator)
    assert outcomes([worker.save(4) for worker in job]) == [None, None]
    until(lambda: coordinator.attended_by(store.url, 2))
    newest = state(store).checkpoints[-1]
    before_damage = damage(store, newest)
    files = {f: f.read_bytes() for f in Path(store.url).rglob("*") if f.is_file()}
    elsewhere = start()
    _, restored = restart(world, elsewhere)
    assert restored == records[-1].prefix
    settle(elsewhere, store)
    driver = elsewhere.server.runs.find(store.url)
    assert driver is not None
    assert driver.machine._run.condemned == {newest.prefix}, "it did find out"
    assert {f: f.read_bytes() for f in Path(store.url).rglob("*") if f.is_file()} == files
    Path(store.url, f"{newest.prefix}.data-00001-of-00002").write_bytes(before_damage)
    assert outcomes([worker.save(5) for worker in job]) == [None, None]


def test_what_the_coordinator_reads_well_is_not_passed_over(
    *,
    store: Store,
    coordinator: Coordinator,
    world: World,
    records: list[CheckpointRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A checkpoint that the coordinator reads well is not passed over. Guards against one worker's faulty memory or
    mount that takes the newest checkpoint from everybody."""
    newest = records[-1]
    sound, kinds = damage(store, newest), log_kinds(store)

    def reads_well(store: Store, record: CheckpointRecord, **how: Any) -> Report:
        Path(store.url, f"{newest.prefix}.data-00001-of-00002").write_bytes(sound)
        return verify_checkpoint(store, record, **how)

    monkeypatch.setattr("holdfast_coordinator.driver.verify_checkpoint", reads_well)
    workers = world(2, coordinator)
    all_join(workers)
    for error in together([worker.restore for worker in workers]):
        assert isinstance(error, StorageError)
        assert f"cannot read {newest.prefix} as it was committed" in str(error)
        assert f"on {socket.gethostname()}: " in str(error)
        assert "data-00001-of-00002 has CRC32C" in str(error)
        assert error.workers  # one of them may have read it after the coordinator
    settle(coordinator, store)
    assert named(store) == newest.prefix
    assert log_kinds(store) == kinds
    workers, restored = restart(world, coordinator)
    assert restored == newest.prefix
    assert outcomes([worker.save(4) for worker in workers]) == [None, None]
    assert state(store).damaged == ()
    assert [c.step for c in committed(store)] == [1, 2, 3, 4]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.installed(monkeypatch, time.monotonic())


@pytest.mark.parametrize("late", ["manifest.json", "ckpt-3.index", ".data-00000-of-00002", ".data-00001-of-00002"])
def test_a_mount_that_lags_is_waited_for(
    *,
    store: Store,
    coordinator: Coordinator,
    world: World,
    records: list[CheckpointRecord],
    clock: Clock,
    late: str,
) -> None:
    """A mount that lags is waited for. Guards against a job that is started again at once and goes back, or does not
    start, because one host does not see the last checkpoint yet."""
    workers = world(2, coordinator, max_to_keep=2)
    workers[1].store = LaggingStore(store.url, clock, {late: clock.now + 30.0})
    all_join(workers)
    for staged in together([lambda w=worker: w.restore(timeout=600.0) for worker in workers]):  # type: ignore[misc]
        assert isinstance(staged, Staged), staged
        with staged:
            assert staged.record.prefix == records[-1].prefix
    for step in (4, 5):
        assert outcomes([worker.save(step) for worker in workers]) == [None, None]
        settle(coordinator, store)
    assert [kind for kind in log_kinds(store) if kind in ("restored", "damaged")] == []
    assert [c.step for c in committed(store)] == [4, 5]


def test_a_mount_that_lags_for_longer_is_an_error_that_names_it(
    *, store: Store, coordinator: Coordinator, world: World, records: list[CheckpointRecord], clock: Clock
) -> None:
    """A mount that lags for too long is an error that names the host. Guards against going back because of a host that
    never sees the directory as the others do."""
    kinds = log_kinds(store)
    workers = world(2, coordinator)
    workers[1].store = LaggingStore(store.url, clock, {".data-00001-of-00002": clock.now + 1e6})
    all_join(workers)
    for error in together([lambda w=worker: w.restore(timeout=600.0) for worker in workers]):  # type: ignore[misc]
        assert isinstance(error, StorageError)
        assert error.workers == ("worker-1",)
        assert "data-00001-of-00002 is missing" in str(error)
        assert "and the coordinator can" in str(error)
    assert log_kinds(store) == kinds
    assert named(store) == records[-1].prefix


def test_too_little_time_to_tell_late_from_deleted(
    *, store: Store, coordinator: Coordinator, world: World, records: list[CheckpointRecord], clock: Clock
) -> None:
    """A restore with too little time calls a missing object unreadable. Guards against calling a checkpoint deleted
    that its mount shows a moment later."""
    Path(store.url, f"{records[-1].prefix}.index").unlink()
    workers = world(2, coordinator)
    all_join(workers)
    for error in together([lambda w=worker: w.restore(timeout=30.0) for worker in workers]):  # type: ignore[misc]
        assert isinstance(error, StorageError)
        assert "join_timeout of at least 75 s" in str(error)
    for staged in together([lambda w=worker: w.restore(timeout=600.0) for worker in workers]):  # type: ignore[misc]
        assert isinstance(staged, Staged), staged
        with staged:
            assert staged.record.prefix == records[-2].prefix


def test_a_later_entry_does_not_bring_damage_back(
    store: Store, coordinator: Coordinator, world: World, records: list[CheckpointRecord]
) -> None:
    """A later entry does not bring a condemned checkpoint back for stock readers. Guards against damage that is
    confirmed while an entry without it is in flight."""
    workers, _ = restart(world, coordinator)
    assert outcomes([worker.save(4) for worker in workers]) == [None, None]
    settle(coordinator, store)
    driver = coordinator.server.runs.find(store.url)
    assert driver is not None
    entry = driver.machine.ledger.number
    before = driver._log.read(entry - 1)
    assert before is not None
    shown = driver._write_state_file_now(entry - 1, before.state.condemn([records[-1].prefix]))
    assert shown[0] == entry
    assert [record.prefix for record in records if record.prefix in store.read("checkpoint").decode()] == [
        record.prefix for record in records[:-1]
    ]
