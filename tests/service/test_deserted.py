"""Runs that everybody has left: a coordinator of weeks serves many, and keeps nothing of them."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
import weakref

import grpc
import pytest

import holdfast_coordinator.core.membership
import holdfast_coordinator.driver
import holdfast_coordinator.served_runs
import holdfast_coordinator.threads
from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core.machine import Machine
from holdfast_coordinator.core.messages import Now
from holdfast_coordinator.driver import DESERTED_FOR
from holdfast_coordinator.refusals import NotNow
from holdfast_coordinator.served_runs import MOST_NAMES
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store
from support.coordinators import Coordinator, StartCoordinator
from support.joining import join_request
from support.light_worker import World, all_join, committed, outcomes, together, until
from support.passing_time import PassingTime


def is_served(coordinator: Coordinator, store: Store) -> bool:
    return store.url in coordinator.server.runs.urls


def leaders(store: Store) -> list[str]:
    """Who led after each entry of the log."""
    names = store.list("_holdfast/log")
    entries = [json.loads(store.read(f"_holdfast/log/{name}"))["entry"] for name in names]
    return [entry["leader"]["id"] for entry in entries if entry["leader"]]


def test_a_run_that_was_left_is_given_up(
    store: Store, coordinator: Coordinator, world: World, passing: PassingTime
) -> None:
    """A run that everybody has left is closed. Guards against 97 threads and 2 % of a core for 200 runs that ended long
    ago."""
    before = set(threading.enumerate())
    workers = world(2, coordinator)
    all_join(workers)
    assert outcomes([worker.save(1) for worker in workers]) == [None, None]
    driver = weakref.ref(coordinator.server.runs.find(store.url))  # type: ignore[arg-type]
    together([worker.close for worker in workers])
    passing.until(lambda: not is_served(coordinator, store))

    async def tasks() -> int:
        return len(asyncio.all_tasks())

    def gone() -> bool:
        gc.collect()
        names = [t.name for t in set(threading.enumerate()) - before]
        return driver() is None and not [n for n in names if n.startswith(("holdfast-storage", "holdfast-upkeep"))]

    until(gone)
    count = coordinator.run(tasks())
    again = world(2, coordinator)
    all_join(again)
    together([worker.close for worker in again])
    passing.until(lambda: not is_served(coordinator, store))
    until(lambda: coordinator.run(tasks()) <= count)


def test_who_comes_later_goes_on_from_the_log(
    store: Store, coordinator: Coordinator, world: World, passing: PassingTime
) -> None:
    """Who comes later goes on from the log. Guards against a run that cannot be joined or is begun anew, and entries of
    an earlier driver taken for one's own."""
    for step in (1, 2):
        workers = world(2, coordinator, max_to_keep=1)
        all_join(workers)
        restored = together([worker.restore for worker in workers])
        assert [each and each.record.step for each in restored] == [step - 1 or None] * 2  # type: ignore[union-attr]
        assert outcomes([worker.save(step) for worker in workers]) == [None, None]
        together([worker.close for worker in workers])
        passing.until(lambda: not is_served(coordinator, store))
    assert [record.step for record in committed(store)][-1:] == [2]
    assert len(set(leaders(store))) == 2


def test_a_run_with_anybody_in_it_stays(
    store: Store, coordinator: Coordinator, world: World, passing: PassingTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run with anybody in it stays open. Guards against workers that train for hours between two saves and are cut
    off."""
    workers = world(2, coordinator)
    all_join(workers)
    until(lambda: coordinator.attended_by(store.url, 2))
    workers[0].close()
    before = coordinator.server.runs.find(store.url)
    handle, looks = Machine.handle, 0

    def counted(machine: Machine, event: ev.Event, now: Now) -> list[fx.Effect]:
        nonlocal looks
        looks += isinstance(event, ev.Tick)
        return handle(machine, event, now)

    with monkeypatch.context() as patch:
        patch.setattr(Machine, "handle", counted)
        passing.by(2 * DESERTED_FOR)
        until(lambda: looks > 3)
    assert coordinator.server.runs.find(store.url) is before
    workers[1].close()


def test_workers_that_come_back_are_met_as_by_a_restarted_coordinator(
    store: Store, coordinator: Coordinator, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that come back are met as by a restarted coordinator. Guards against a network that is cut for minutes
    and ends a job."""
    workers = world(2, coordinator)
    all_join(workers)
    assert outcomes([worker.save(1) for worker in workers]) == [None, None]
    until(lambda: coordinator.attended_by(store.url, 2))
    generation = workers[0].session.generation
    driver = coordinator.server.runs.find(store.url)
    assert driver is not None

    async def give_up() -> None:
        # As after a cut that nobody's side has closed: nobody is there any more, as far as is known here.
        coordinator.server.runs._deserted(driver)

    coordinator.run(give_up())
    assert outcomes([worker.save(2) for worker in workers]) == [None, None]
    run = read_run(store)
    assert run is not None
    assert [record.step for record in run.checkpoints] == [1, 2]
    assert run.generation is not None
    assert run.generation.id == generation
    assert len(set(leaders(store))) == 2


def test_a_run_in_which_nothing_happens_costs_nothing(
    start: StartCoordinator, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that nobody attends need no thread and hardly a timer, and make room for others. Guards against 10,000 names
    of runs that leave 8,281 threads and take half of a processor."""
    monkeypatch.setattr(holdfast_coordinator.driver, "IDLE_TICK", 100.0)
    monkeypatch.setattr(holdfast_coordinator.threads, "IDLE_FOR", 0.01)
    monkeypatch.setattr(holdfast_coordinator.served_runs, "MOST_RUNS", 5)
    monkeypatch.setattr(holdfast_coordinator.core.membership, "LOST_AFTER", 0.0)
    coordinator = start(insecure=True)
    ticks: list[Machine] = []
    handle = Machine.handle

    def counted(machine: Machine, event: ev.Event, now: Now) -> list[fx.Effect]:
        if isinstance(event, ev.Tick):
            ticks.append(machine)
        return handle(machine, event, now)

    monkeypatch.setattr(Machine, "handle", counted)
    with coordinator.stub() as stub:
        for number in range(12):
            caller = pb.Caller(run=f"{store.url}-{number}", task="worker-0", incarnation="p.1")
            assert stub.Join(join_request(caller), timeout=30.0).generation
        assert len(coordinator.server.runs.urls) <= 5
        until(lambda: not [t for t in threading.enumerate() if t.name.startswith("holdfast-storage")])
        last = len(ticks)
        time.sleep(0.2)
        assert len(ticks) <= last + 12
        monkeypatch.setattr(holdfast_coordinator.core.membership, "LOST_AFTER", 10.0)
        more = [pb.Caller(run=f"{store.url}-{n}", task="worker-0", incarnation="p.1") for n in range(20, 26)]
        with pytest.raises(grpc.RpcError, match="5 other runs"):
            _ = [stub.Join(join_request(caller), timeout=30.0) for caller in more]


def test_a_run_by_ever_new_names(coordinator: Coordinator, store: Store) -> None:
    """A run is reached by so many paths and no more; those that are known go on. Guards against a member who has a
    coordinator that serves others as well remember names without end."""
    runs = coordinator.server.runs
    for number in range(MOST_NAMES):
        coordinator.run(runs.get(store.url + "/." * number))
    with pytest.raises(NotNow, match="by 100 other paths"):
        coordinator.run(runs.get(store.url + "/." * MOST_NAMES))
    assert coordinator.run(runs.get(store.url)) is coordinator.run(runs.get(f"{store.url}/."))
    assert len(runs._directories) == MOST_NAMES
