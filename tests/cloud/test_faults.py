"""Saves and restores on object stores whose calls fail: nothing is lost, nothing is doubled, nothing is left behind."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from holdfast.staging import Staged
from holdfast_storage.store import open_store
from servers.base import Location, Server
from servers.fault_proxy import FaultProxy
from servers.faults import Answer, CutReply, CutRequest, LoseReply, Plan, Stall, at_random, no_faults
from servers.fixtures import ObjectStore
from support.bundles import expected, stored
from support.coordinators import Coordinator
from support.light_worker import (
    LightWorker,
    all_join,
    cluster_of,
    committed,
    outcomes,
    state,
    tensor,
    together,
    until,
)

SIZE = 2
KEPT = 3


class Job:
    """Two workers and a coordinator, and what they were told."""

    def __init__(self, location: Location, coordinator: Coordinator) -> None:
        store = open_store(location.url, location.storage_options)
        self.workers = [
            LightWorker(store, n, cluster_of(SIZE), coordinator=coordinator.address, max_to_keep=KEPT)
            for n in range(SIZE)
        ]
        self.told: list[str] = []
        all_join(self.workers)

    def save(self, step: int, rows: int = 0) -> None:
        """A save that all are told is committed. rows: of a variable of 1 MB a row."""
        snapshot = state(seed=step, more=[tensor("model/large", (rows, 250_000), seed=step)] if rows else [])
        saves = [worker.save(step, snapshot) for worker in self.workers]
        assert outcomes(saves) == [None] * SIZE
        self.told.append(saves[0].prefix)
        for staged in together([worker.restore for worker in self.workers]):
            assert isinstance(staged, Staged), staged
            with staged:
                folder, _, name = staged.prefix.rpartition("/")
                assert staged.record.prefix == saves[0].prefix
                assert stored(open_store(folder), name) == expected(snapshot)


@contextmanager
def job(location: Location) -> Iterator[Job]:
    coordinator = Coordinator()
    workers: Sequence[LightWorker] = ()
    try:
        job = Job(location, coordinator)
        workers = job.workers
        yield job
        for worker in workers:
            worker.close()
    finally:
        for worker in workers:
            worker.close(patience=0.0)
        coordinator.stop()


def entries(server: Server, root: str) -> list[dict[str, object]]:
    """The log, read without the product's help."""
    names = sorted(server.files.find(f"{root}/_holdfast/log"))
    return [json.loads(server.files.cat_file(name))["entry"] for name in names]


def survive(
    server: Server, proxy: FaultProxy, plan: Plan, tell: Callable[[Location], None], rounds: int, **save: int
) -> None:
    """Save and restore while calls go wrong; then look at what is there, without Holdfast where that is possible."""
    location = server.location(proxy.endpoint)
    root = location.url.partition("://")[2]
    tell(location)
    proxy.plan = plan
    with job(location) as troubled:
        for step in range(rounds):
            troubled.save(step, **save)
    proxy.plan = no_faults
    with job(location) as after:  # a new world leads, and cleans up what the one before has left behind
        after.save(rounds)
        told = troubled.told + after.told
        files = server.files
        live = sorted({prefix.partition("/")[0] for prefix in told[-KEPT:]})
        until(lambda: sorted(names(files.ls(root, detail=False))) == sorted(["_holdfast", "checkpoint", *live]))

    commits = Counter(entry["note"] for entry in entries(server, root) if entry["kind"] == "commit")
    assert commits == Counter(told), "a save was lost, or is there twice"
    assert [record.prefix for record in committed(open_store(location.url, location.storage_options))] == told[-KEPT:]


def names(paths: Sequence[str]) -> list[str]:
    return [path.rstrip("/").rpartition("/")[2] for path in paths]


PLANS: dict[str, Callable[[int], Plan]] = {
    "5 % are told to slow down": lambda seed: at_random(seed, {Answer(503): 0.05}),
    "connections are cut": lambda seed: at_random(seed, {CutRequest(): 0.04, CutReply(): 0.04}),
    "replies to writes are lost": lambda seed: at_random(seed, {LoseReply(): 0.1}, lambda call: call.writes),
    "calls stall": lambda seed: at_random(seed, {Stall(2.0): 0.02}),
}


@pytest.mark.parametrize("what", PLANS)
def test_s3(
    object_store: ObjectStore, proxied: Callable[[Server], FaultProxy], tell: Callable[[Location], None], what: str
) -> None:
    """A save that is reported and not there, there and not reported, or there twice; or its remains."""
    server = object_store("s3")
    proxy = proxied(server)
    survive(server, proxy, PLANS[what](1), tell, rounds=25)
    assert len(proxy.faults()) > 10
