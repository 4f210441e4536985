"""Damage that is found by a restore: confirmed by the coordinator, marked by the next save, gone in the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.staging import Staged
from holdfast_storage import state_file
from holdfast_storage.records import CheckpointRecord, LogState
from holdfast_storage.runs import read_run
from holdfast_storage.store import Store
from holdfast_storage.verify import Report, verify_checkpoint
from support.coordinators import Coordinator, StartCoordinator
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
    """Stock readers that load a damaged checkpoint; a damaged one tried again by each restart, or there for ever."""
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
    """A job that restores and ends at once leaves the file as it was."""
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
    """A notebook writes into the directory of a job that trains."""
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


def test_what_the_coordinator_reads_well_is_not_marked(
    *,
    store: Store,
    coordinator: Coordinator,
    world: World,
    records: list[CheckpointRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker whose own memory or mount is at fault takes the newest checkpoint from everybody, for ever."""
    _, good, bad = records
    sound = damage(store, bad)

    def reads_well(store: Store, record: CheckpointRecord) -> Report:
        Path(store.url, f"{bad.prefix}.data-00001-of-00002").write_bytes(sound)
        return verify_checkpoint(store, record)

    monkeypatch.setattr("holdfast_coordinator.driver.verify_checkpoint", reads_well)
    workers, restored = restart(world, coordinator)
    assert restored == good.prefix
    settle(coordinator, store)
    assert named(store) == bad.prefix
    assert outcomes([worker.save(4) for worker in workers]) == [None, None]
    assert state(store).damaged == ()
    assert [c.step for c in committed(store)] == [1, 3, 2, 4], "but the world went back"


def test_a_later_entry_does_not_bring_damage_back(
    store: Store, coordinator: Coordinator, world: World, records: list[CheckpointRecord]
) -> None:
    """Damage is confirmed while an entry is on its way that does not tell of it: stock TensorFlow finds it again."""
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
