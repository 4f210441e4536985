"""A world comes together: whoever is late, missing, of another mind, or looks in the wrong place."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

import holdfast.session.session
import holdfast_coordinator.core.joining
import holdfast_coordinator.driver
from holdfast.session.hint import Hint, read_hint
from holdfast_storage.errors import CoordinatorUnavailable, InvalidRequest, StorageError
from holdfast_storage.layout import HINT
from holdfast_storage.store import Store
from support.coordinators import Coordinator, StartCoordinator
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
from support.passing_store import PassingStore
from support.passing_time import PassingTime
from support.ports import free_address


@pytest.fixture
def poll_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joins are told soon whom they wait for."""
    monkeypatch.setattr(holdfast_coordinator.core.joining, "POLL", 0.1)


def waits(coordinator: Coordinator, store: Store, reason: str) -> Callable[[], bool]:
    def look() -> bool:
        driver = coordinator.server.runs.find(store.url)
        return (
            driver is not None and driver.machine.forming is not None and reason in coordinator.status(store.url).reason
        )

    return look


def given_up(worker: LightWorker, passing: PassingTime, reason: str) -> str:
    """What a worker says that tried to join until its time was over, which is once it knows of a reason to wait."""

    def give_up() -> None:
        until(lambda: reason in worker.session._joining_waits_for)
        passing.by(60.0)

    error, _ = together([worker.join, give_up])
    assert isinstance(error, CoordinatorUnavailable)
    return str(error)


@pytest.mark.parametrize("size", [1, 2, 8])
def test_all_join_one_generation(coordinator: Coordinator, world: World, size: int) -> None:
    """All workers join one generation. Guards against two worlds of one job that wait for each other's half."""
    workers = world(size, coordinator)
    all_join(workers)
    assert len({worker.session.generation for worker in workers}) == 1


def test_the_others_wait_for_one_that_is_late(
    coordinator: Coordinator, store: Store, world: World, poll_soon: None
) -> None:
    """The others wait for a late worker. Guards against a slow worker that ends everybody's job."""
    workers = world(3, coordinator)
    early = [threading.Thread(target=worker.join) for worker in workers[:2]]
    for thread in early:
        thread.start()
    until(waits(coordinator, store, "waiting for worker-2 to join"))
    workers[2].join()
    for thread in early:
        thread.join(60.0)
    assert len({worker.session.generation for worker in workers}) == 1


def test_missing_workers_are_named(
    coordinator: Coordinator, store: Store, world: World, poll_soon: None, passing: PassingTime
) -> None:
    """Missing workers are named. Guards against a job that does not start for a reason that nobody knows."""
    workers = world(4, coordinator)

    def give_up() -> None:
        until(waits(coordinator, store, "waiting for worker-0, worker-3 to join"))
        passing.by(60.0)

    *results, _ = together([workers[1].join, workers[2].join, give_up])
    for result in results:
        assert isinstance(result, CoordinatorUnavailable)
        assert "waiting for worker-0, worker-3 to join" in str(result)
        assert coordinator.address in str(result)


def test_clusters_that_differ_are_an_error_on_all(coordinator: Coordinator, store: Store, world: World) -> None:
    """Clusters that differ are an error on all workers. Guards against workers that wait for others who do not know of
    them."""
    ours, theirs = world(2, coordinator), world(2, coordinator, cluster=cluster_of(2, first_port=2000))
    for result in together([ours[0].join, theirs[1].join]):
        assert isinstance(result, InvalidRequest)
        assert "do not agree on the cluster" in str(result)
        assert "127.0.0.1:1000" in str(result)
        assert "127.0.0.1:2000" in str(result)
    assert log_kinds(store) == []


def test_an_address_where_nothing_listens_is_named(store: Store, world: World, passing: PassingTime) -> None:
    """An address where nobody listens is named. Guards against waiting for ever at a mistyped address."""
    address = free_address()
    (worker,) = world(1, address)
    error = given_up(worker, passing, "no coordinator answers")
    assert re.search(f"could not join.*no coordinator answers at {address}", error)
    assert store.list() == []


def test_a_coordinator_that_is_late_is_waited_for(start: StartCoordinator, world: World) -> None:
    """A late coordinator is waited for. Guards against workers that start before it and give up at once."""
    address = free_address()
    workers = world(2, address)
    threads = [threading.Thread(target=worker.join) for worker in workers]
    for thread in threads:
        thread.start()
    start(address)
    for thread in threads:
        thread.join(60.0)
    assert workers[0].session.generation == workers[1].session.generation


# -- embedded in the chief --


def test_its_coordinator_uses_the_chiefs_store(store: Store, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedded coordinator uses the chief's store. Guards against a bucket without the credentials that the manager
    got, and a second connection."""

    def none(*_: object) -> None:
        raise AssertionError("opened once more")

    monkeypatch.setattr("holdfast_coordinator.served_runs.open_store", none)
    workers = world(2)
    all_join(workers)
    assert outcomes([worker.save(1) for worker in workers]) == [None] * 2
    assert [record.step for record in committed(store)] == [1]


def test_the_chief_is_found_through_its_hint(store: Store, world: World) -> None:
    """The chief is found by its hint. Guards against a job without a coordinator's address that does not start."""
    workers = world(3)
    all_join(workers)
    hint = read_hint(store)
    assert hint is not None
    assert hint.cluster == cluster_of(3)
    assert outcomes([worker.save(1) for worker in workers]) == [None] * 3
    assert [record.step for record in committed(store)] == [1]


@pytest.mark.parametrize(
    "stale",
    [
        json.dumps({"address": "127.0.0.1:1", "cluster": dict(cluster_of(2))}).encode(),
        json.dumps({"address": "127.0.0.1:1", "cluster": {"worker": ["other:1"]}}).encode(),
        b"{half",
        b"[]",
        b"\xff",
    ],
)
def test_a_stale_hint_is_not_believed(store: Store, world: World, stale: bytes) -> None:
    """A stale hint is not trusted. Guards against an earlier job's hint that leads the workers astray."""
    store.replace(HINT, stale)
    workers = world(2)
    late = threading.Event()

    def chief() -> LightWorker:
        assert late.wait(60.0)
        return workers[0].join()

    threads = [threading.Thread(target=chief), threading.Thread(target=workers[1].join)]
    for thread in threads:
        thread.start()
    late.set()
    for thread in threads:
        thread.join(60.0)
    assert workers[0].session.generation == workers[1].session.generation


def test_a_chief_that_never_came_is_named(store: Store, world: World, passing: PassingTime) -> None:
    """A chief that never came is named. Guards against workers that only say that there is no coordinator."""
    workers = world(2)
    assert "the chief (worker-0) has not said where its coordinator" in given_up(workers[1], passing, "the chief")


def test_a_hint_that_cannot_be_read_says_so(
    store: Store, world: World, monkeypatch: pytest.MonkeyPatch, passing: PassingTime
) -> None:
    """A hint that cannot be read is named as the reason. Guards against telling a worker without rights that the chief
    is missing."""
    workers = world(2)

    def denied(_: Store) -> None:
        raise StorageError("Could not read /x: Permission denied", object="/x")

    monkeypatch.setattr(holdfast.session.session, "read_hint", denied)
    assert "Permission denied" in given_up(workers[1], passing, "cannot be read")


def test_a_hint_that_could_not_be_written_is_written_at_the_next_try(
    store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hint that could not be written is written at the next try. Guards against a chief that waits for workers that
    cannot find it, after a full disk."""
    workers = world(2)
    with monkeypatch.context() as patch:

        def full(self: Hint, _: Store) -> None:
            raise StorageError("Could not replace /x: No space left on device", object="/x")

        patch.setattr(Hint, "write", full)
        with pytest.raises(StorageError, match="No space left"):
            workers[0].join()
    all_join(workers)


def test_a_chief_that_was_restarted_is_found_again(store: Store, world: World) -> None:
    """A restarted chief is found again. Guards against workers that ask where the old one listened."""
    before = world(2)
    all_join(before)
    assert outcomes([worker.save(1) for worker in before]) == [None, None]
    for worker in reversed(before):
        worker.close()
    after = world(2)
    assert together([after[1].join, after[0].join]) == [after[1], after[0]]
    assert after[0].session.generation != before[0].session.generation
    assert outcomes([worker.save(2) for worker in after]) == [None, None]
    assert [record.step for record in committed(store)] == [1, 2]


def test_managers_of_one_process_share_its_coordinator(store: Store, world: World) -> None:
    """Managers of one process share its coordinator. Guards against a second manager whose close() ends the coordinator
    of the first."""
    first, second = world(2, process="aa"), world(2, process="aa")
    all_join(first)
    all_join(second)
    for worker in reversed(first):
        worker.close()
    assert outcomes([worker.save(1) for worker in second]) == [None, None]


def test_a_coordinator_whose_storage_hangs_may_be_the_reason(
    coordinator: Coordinator, world: World, monkeypatch: pytest.MonkeyPatch, passing: PassingTime
) -> None:
    """A coordinator whose storage hangs is named as a possible reason. Guards against people who look for the fault in
    the network."""
    answers = threading.Event()
    read = holdfast_coordinator.driver.tail_or_import
    monkeypatch.setattr(holdfast_coordinator.driver, "tail_or_import", lambda *args: answers.wait(60.0) and read(*args))
    monkeypatch.setattr(holdfast.session.session, "JOIN_CALL", 0.05)
    (worker,) = world(1, coordinator)
    assert f"answers at {coordinator.address}, or its storage does not" in given_up(worker, passing, "no coordinator")
    answers.set()


# -- where a coordinator may work --


def test_runs_outside_of_the_root_are_refused(start: StartCoordinator, store: Store, tmp_path: object) -> None:
    """Runs outside of the root are refused. Guards against files that are written wherever a caller likes."""
    (inside := tmp_path / "root").mkdir()  # type: ignore[operator]
    (tmp_path / "root2").mkdir()  # type: ignore[operator]
    (inside / "link").symlink_to(tmp_path / "root2")  # type: ignore[operator]
    from support.stores import open_store

    coordinator = start(roots=[str(inside)])
    for outside in (tmp_path / "root2" / "run", tmp_path, inside / ".." / "x", inside / "link" / "run"):  # type: ignore[operator]
        worker = LightWorker(open_store(outside), 0, cluster_of(1), coordinator=coordinator.address)
        worker.session._access = replace(worker.session._access, run=str(outside))
        with pytest.raises(InvalidRequest, match=f"serves the runs below its --root, and {outside} is none"):
            worker.join()
        worker.close()
    worker = LightWorker(open_store(inside / "run"), 0, cluster_of(1), coordinator=coordinator.address)
    worker.join()
    worker.close()


def test_paths_that_differ_and_lead_to_one_directory_are_one_run(
    coordinator: Coordinator, store: Store, world: World, tmp_path: object
) -> None:
    """Different paths to one directory are one run. Guards against a directory that is mounted in two places, and
    workers that wait in a run each."""
    (tmp_path / "alias").symlink_to(tmp_path / "run")  # type: ignore[operator]
    workers = world(2, coordinator)
    alias = PassingStore(store)
    alias.url = str(tmp_path / "alias")  # type: ignore[operator]
    workers[1].store = workers[1].session._store = alias
    workers[1].session._access = replace(workers[1].session._access, run=alias.url)
    all_join(workers)
    assert outcomes([worker.save(1) for worker in workers]) == [None, None]
    assert coordinator.status(alias.url).run_id == coordinator.status(store.url).run_id != ""
