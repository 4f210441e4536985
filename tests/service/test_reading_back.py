"""A new checkpoint is read back by the workers, each of which reads what another one wrote."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import holdfast.session.reading_back
import holdfast_coordinator.core.reading_back
import holdfast_coordinator.driver
import holdfast_storage.checkpoint.verify
from holdfast.session.session import Session
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.checkpoint.manifest import read_manifest
from holdfast_storage.checkpoint.verify import Report
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store import Store
from support.coordinators import Coordinator
from support.light_worker import LightWorker, World, all_join, committed, log_kinds, outcomes, until

Change = Callable[[CheckpointRecord, list[str]], None]


class Readings:
    """What is read back, by whom. before: is done before a worker reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by_workers: list[tuple[CheckpointRecord, list[str]]] = []
        self.by_coordinator: list[list[str] | None] = []
        self.before: Change = lambda record, objects: None
        verify = holdfast_storage.checkpoint.verify.verify_checkpoint

        def by_worker(store: Store, record: CheckpointRecord, objects: Any, **how: Any) -> Report:
            self.before(record, list(objects))
            report = verify(store, record, objects=objects, **how)
            self.by_workers.append((record, list(objects)))
            return report

        def by_coordinator(store: Store, record: CheckpointRecord, objects: Any = None, **how: Any) -> Report:
            self.by_coordinator.append(None if objects is None else list(objects))
            return verify(store, record, objects=objects, **how)

        monkeypatch.setattr(holdfast.session.reading_back, "verify_checkpoint", by_worker)
        monkeypatch.setattr(holdfast_coordinator.driver, "verify_checkpoint", by_coordinator)


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Readings:
    return Readings(monkeypatch)


def saved_twice(workers: list[LightWorker]) -> None:
    all_join(workers)
    for step in (1, 2):
        assert outcomes([worker.save(step) for worker in workers]) == [None] * len(workers)


def retired(store: Store) -> bool:
    return "retire" in log_kinds(store)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("embedded", [False, True], ids=["apart", "embedded"])
def test_the_coordinator_reads_the_manifest_alone(
    store: Store, coordinator: Coordinator, world: World, readings: Readings, size: int, *, embedded: bool
) -> None:
    """The workers read all objects, each once, and the coordinator none. Guards against a state that passes through the
    coordinator, or is read by every worker."""
    saved_twice(world(size, "" if embedded else coordinator, max_to_keep=1))
    until(lambda: retired(store))
    (record,) = committed(store)
    names = [each.name for each in read_manifest(store, record).objects]
    assert sorted(name for _, objects in readings.by_workers for name in objects) == sorted(names)
    assert {about.manifest_crc32c for about, _ in readings.by_workers} == {record.manifest_crc32c}
    assert readings.by_coordinator == [[]]


def test_a_world_of_one(store: Store, coordinator: Coordinator, world: World, readings: Readings) -> None:
    """In a world of one the coordinator reads all, as it may be another process. Guards against a writer that reads its
    own work although somebody else could."""
    saved_twice(world(1, coordinator, max_to_keep=1))
    until(lambda: retired(store))
    assert readings.by_workers == []
    assert readings.by_coordinator == [None]


def test_damage_is_told_with_who_found_it(
    store: Store, coordinator: Coordinator, world: World, readings: Readings, caplog: pytest.LogCaptureFixture
) -> None:
    """Damage that a worker finds is told with its name and the object's, and nothing is removed. Guards against the
    only good checkpoint that goes for a bad one."""

    def damage(record: CheckpointRecord, objects: list[str]) -> None:
        for name in objects:
            if "data-00001" in name:
                path = Path(store.url, record.folder, name)
                path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])

    readings.before = damage
    workers = world(2, coordinator, max_to_keep=1)
    saved_twice(workers)
    until(lambda: "nothing that it replaces is removed" in caplog.text)
    assert not retired(store)
    (line,) = [record.getMessage() for record in caplog.records if " damaged: " in record.getMessage()]
    assert "worker-0 finds ckpt-2." in line
    assert "data-00001-of-00002 has CRC32C" in line
    readings.before = lambda record, objects: None
    assert outcomes([worker.save(3) for worker in workers]) == [None, None]
    until(lambda: retired(store))


def test_what_is_late_is_waited_for(store: Store, coordinator: Coordinator, world: World, readings: Readings) -> None:
    """A worker waits for what its mount shows late. Guards against absence that is taken for damage."""

    def hide(record: CheckpointRecord, objects: list[str]) -> None:
        for name in objects:
            path = Path(store.url, record.folder, name)
            hidden = path.rename(path.with_name(f"{name}.hidden"))
            threading.Timer(0.3, hidden.rename, (path,)).start()
            break

    readings.before = hide
    saved_twice(world(2, coordinator, max_to_keep=1))
    until(lambda: retired(store))
    assert readings.by_coordinator == [[]]


def test_a_worker_that_does_not_know_the_notice(
    store: Store, coordinator: Coordinator, world: World, readings: Readings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of an earlier version, which ignores the notice, is waited for until the bound. Guards against worlds of
    two versions in which all that was ever saved stays."""
    hear = Session._hear

    def as_before(self: Session, notice: pb.Notice) -> None:
        if not notice.HasField("read_back") or self.this_task.is_chief:
            hear(self, notice)

    monkeypatch.setattr(Session, "_hear", as_before)
    monkeypatch.setattr(holdfast_coordinator.core.reading_back, "ANSWERED_WITHIN", 0.5)
    saved_twice(world(2, coordinator, max_to_keep=1))
    until(lambda: retired(store))
    assert readings.by_coordinator == [[]], "the other one has read all"


def test_who_dies_while_it_reads(store: Store, coordinator: Coordinator, world: World, readings: Readings) -> None:
    """What a worker was to read that dies others read. Guards against retention that waits for the dead."""
    workers = world(3, coordinator, max_to_keep=1)

    def die(record: CheckpointRecord, objects: list[str]) -> None:
        readings.before = lambda record, objects: None
        workers[2].die()

    readings.before = die
    saved_twice(workers)
    until(lambda: retired(store))
    committed(store)
