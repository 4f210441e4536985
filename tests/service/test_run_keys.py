"""A run's key changes: the run was deleted and made again, or somebody has had the key deleted."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from contextlib import closing
from pathlib import Path

import pytest

from holdfast_coordinator import run_keys
from holdfast_coordinator.door import Admitted
from holdfast_coordinator.refusals import NotNow
from holdfast_coordinator.run_keys import RunKeys
from holdfast_coordinator.served_runs import OPENING_THREADS
from holdfast_protos.client import Access, Link, Unreachable
from holdfast_protos.proofs import process_of
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.layout import KEY
from holdfast_storage.run_key import ensure_key
from holdfast_storage.store import Store, open_store
from support.coordinators import Coordinator, StartCoordinator
from support.joining import join_request
from support.light_worker import World, all_join, cluster_of, outcomes, together
from support.passing_time import PassingTime


@pytest.fixture(autouse=True)
def always_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second passes between two readings."""
    monkeypatch.setattr(run_keys, "ANEW_AFTER", 0.0)


def test_a_run_that_is_made_again_has_a_new_key(
    coordinator: Coordinator, store: Store, world: World, passing: PassingTime
) -> None:
    """A run that everybody has left, and that was deleted and made again, is joined at the same coordinator. Guards
    against proofs with the old key, which no worker believes, for as long as the coordinator lives."""
    for _ in range(2):
        workers = world(2, coordinator)
        all_join(workers)
        assert outcomes([worker.save(1) for worker in workers]) == [None, None]
        together([worker.close for worker in workers])
        passing.until(lambda: not coordinator.server.runs.urls)
        shutil.rmtree(store.url)


def test_a_key_is_replaced_under_a_living_job(start: StartCoordinator, store: Store, world: World) -> None:
    """Who has deleted a key that others know has another one in force once the coordinator was restarted, and no save
    is lost. Guards against workers that hold on to the old one, and a key that cannot be replaced."""
    coordinator = start()
    workers = world(2, coordinator)
    all_join(workers)
    assert outcomes([worker.save(1) for worker in workers]) == [None, None]
    old = ensure_key(store)
    os.unlink(f"{store.url}/{KEY}")
    assert outcomes([worker.save(2) for worker in workers]) == [None, None]
    coordinator.stop()
    coordinator = start(coordinator.address)
    assert outcomes([worker.save(3) for worker in workers]) == [None, None]
    assert ensure_key(store) != old
    with pytest.raises(Unreachable, match="does not prove that it reads the key"):
        Link(coordinator.address, Access(store.url, lambda: old))


def test_a_key_that_is_read_anew_is_there_for_the_others(
    coordinator: Coordinator, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a storage does not say what the key is now, members go on with the one that is known. Guards against a
    stranger whose wrong proofs make all of them wait for the storage."""
    key = ensure_key(store)
    keys = RunKeys(coordinator.server.runs)
    assert coordinator.run(keys.get(store)) == key
    asked, answer = threading.Event(), threading.Event()

    def slow(store: Store) -> bytes:
        asked.set()
        assert answer.wait(60.0)
        return key

    monkeypatch.setattr(run_keys, "read_key", slow)
    stranger = threading.Thread(target=lambda: coordinator.run(keys.get_anew(store)))
    stranger.start()
    try:
        assert asked.wait(60.0)
        assert coordinator.run(keys.get(store), 30.0) == key
    finally:
        answer.set()
        stranger.join(60.0)
    assert coordinator.run(keys.get(store)) == key


def test_a_storage_that_hangs_takes_one_thread(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the storage of one run does not answer, whoever asks for its key, however often, the keys of others are
    read. Guards against one run, or a stranger who greets it, that keeps all others from starting."""
    hanging, other = open_store(tmp_path / "hanging"), open_store(tmp_path / "other")
    answer, read = threading.Event(), run_keys.read_key
    asked: list[str] = []

    def slow(store: Store) -> bytes | None:
        asked.append(store.url)
        assert store.url == other.url or answer.wait(60.0)
        return read(store)

    for store in (hanging, other):
        ensure_key(store)
    keys = RunKeys(coordinator.server.runs)
    monkeypatch.setattr(run_keys, "read_key", slow)

    async def greet() -> None:
        greetings = [asyncio.ensure_future(keys.get_anew(hanging)) for _ in range(2 * OPENING_THREADS)]
        try:
            await asyncio.wait(greetings, timeout=0.2)
            assert await asyncio.wait_for(keys.get_anew(other), 30.0) == ensure_key(other)
        finally:
            answer.set()
        assert set(await asyncio.gather(*greetings)) == {ensure_key(hanging)}

    coordinator.run(greet())
    assert asked == [hanging.url, other.url]


def test_a_link_that_comes_to_lead_elsewhere(
    coordinator: Coordinator, store: Store, world: World, tmp_path: Path
) -> None:
    """A proof is for the directory whose key it is made with, and not for the path by which that was reached. Guards
    against a link of one's own that leads to one's own run first, and to somebody else's once that is proven."""
    all_join(world(1, coordinator))
    own, way = open_store(tmp_path / "own"), tmp_path / "way"
    ensure_key(own)
    way.symlink_to(own.url)
    with closing(Link(coordinator.address, Access(str(way), lambda: ensure_key(own), b"secret"))) as link:
        way.unlink()
        way.symlink_to(store.url)
        caller = pb.Caller(run=str(way), task="worker-0", incarnation=f"{process_of(b'secret')}.1")
        with pytest.raises(Unreachable, match="UNAUTHENTICATED"):
            link.join(join_request(caller, cluster_of(1), timeout=1.0), 10.0)
        with pytest.raises(Unreachable, match="UNAUTHENTICATED"):
            link.status(pb.StatusRequest(run=str(way)), 10.0)
    with pytest.raises(NotNow, match="has just become another directory"):
        Admitted(str(way), "", own.url).check_directory(store.url)
    assert coordinator.server.runs.urls == [store.url]
