"""Saves and restores on object stores whose calls fail: nothing is lost, nothing is doubled, nothing is left behind."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from holdfast.restoring.staging import Staged
from holdfast_storage.store import Store, open_store
from servers.base import BUCKET, Location, Server
from servers.fault_proxy import FaultProxy
from servers.faults import Answer, Call, CutReply, CutRequest, Fault, LoseReply, Plan, Stall, at_random, no_faults
from servers.fixtures import ObjectStore
from support.bundles import expected, stored
from support.child import Child
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

Proxied = Callable[[Server], FaultProxy]
Tell = Callable[[Location], None]


class Job:
    """Two workers and a coordinator, and what they were told."""

    def __init__(self, store: Store, coordinator: Coordinator) -> None:
        self.workers = [
            LightWorker(store, n, cluster_of(SIZE), coordinator=coordinator.address, max_to_keep=KEPT)
            for n in range(SIZE)
        ]
        self.told: list[str] = []

    def save_and_restore(self, step: int, megabytes: int) -> None:
        """Committed, all are told; and what comes back is what was saved."""
        large = [tensor("model/large", (megabytes, 250_000), seed=step)] if megabytes else []
        snapshot = state(seed=step, more=large)
        saves = [worker.save(step, snapshot) for worker in self.workers]
        assert outcomes(saves) == [None] * SIZE
        self.told.append(saves[0].prefix)
        for staged in together([worker.restore for worker in self.workers]):
            assert isinstance(staged, Staged), staged
            with staged:
                folder, _, name = staged.prefix.rpartition("/")
                assert staged.record.prefix == saves[0].prefix
                with tempfile.TemporaryDirectory() as plain:  # what is staged are links, which no store follows
                    shutil.copytree(folder, f"{plain}/staged")
                    assert stored(open_store(f"{plain}/staged"), name) == expected(snapshot)


@contextmanager
def new_job(store: Store) -> Iterator[Job]:
    coordinator = Coordinator(roots=[store.url])
    try:
        job = Job(store, coordinator)
        try:
            all_join(job.workers)
            yield job
        finally:
            for worker in job.workers:
                worker.close()
    finally:
        coordinator.stop()


def survive(server: Server, proxy: FaultProxy, plan: Plan, tell: Tell, *, rounds: int, megabytes: int = 0) -> str:
    """Save and restore while calls go wrong; then look at all that is there. Where it is."""
    location = server.location(proxy.endpoint)
    tell(location)
    # Of the smallest parts, so that there are some.
    store = open_store(location.url, location.storage_options, write_buffer=20 << 20)
    proxy.plan = plan
    with new_job(store) as troubled:
        for step in range(rounds):
            troubled.save_and_restore(step, megabytes)
    proxy.plan = no_faults

    root = location.url.partition("://")[2]
    with new_job(store) as after:  # a new world leads, and cleans up what the one before has left behind
        after.save_and_restore(rounds, 0)
        told = troubled.told + after.told
        live = [prefix.partition("/")[0] for prefix in told[-KEPT:]]
        until(lambda: children(server, root) == sorted(["_holdfast", "checkpoint", *live]))
    names = sorted(server.files.find(f"{root}/_holdfast/log"))
    entries = [json.loads(server.files.cat_file(name))["entry"] for name in names]
    assert Counter(e["note"] for e in entries if e["kind"] == "commit") == Counter(told), "lost, or there twice"
    assert [record.prefix for record in committed(store)] == told[-KEPT:]
    return root


def children(server: Server, root: str) -> list[str]:
    return sorted(path.rstrip("/").rpartition("/")[2] for path in server.files.ls(root, detail=False))


PLANS: dict[str, Plan] = {
    "5 % are told to slow down": at_random(1, {Answer(503): 0.05}),
    "connections are cut": at_random(2, {CutRequest(): 0.04, CutReply(): 0.04}),
    "replies to writes are lost": at_random(3, {LoseReply(): 0.1}, lambda call: call.writes),
    "calls stall": at_random(4, {Stall(2.0): 0.02}),
}


@pytest.mark.parametrize("what", PLANS)
def test_nothing_is_lost_or_doubled(object_store: ObjectStore, proxied: Proxied, tell: Tell, what: str) -> None:
    """Under faults every reported save is there exactly once, and nothing else is. Guards against a save that is
    reported and missing, there and not reported, or there twice."""
    server = object_store("s3")
    proxy = proxied(server)
    survive(server, proxy, PLANS[what], tell, rounds=25)
    assert len(proxy.faults()) > 10
    if "lost" in what:
        assert any(call.is_create and fault for call, fault in proxy.calls), "no conditional write was hit"


@pytest.mark.parametrize("kind", ["gcs", "azure"])
def test_the_same_on_other_stores(object_store: ObjectStore, proxied: Proxied, tell: Tell, kind: str) -> None:
    """The same holds on the other stores. Guards against a client library that takes a failure for something else."""
    server = object_store(kind)
    proxy = proxied(server)
    faults = [Answer(503), CutRequest(), CutReply(), LoseReply()]
    now_and_then, creates = at_random(5, dict.fromkeys(faults, 0.03)), itertools.count()

    def plan(call: Call) -> Fault | None:
        if call.is_create and next(creates) == 7:  # chance may leave it out
            return LoseReply()
        return now_and_then(call)

    survive(server, proxy, plan, tell, rounds=15)
    assert set(proxy.faults()) == set(faults)
    assert any(call.is_create and fault == LoseReply() for call, fault in proxy.calls)


def test_a_server_without_conditions(
    object_store: ObjectStore, proxied: Proxied, tell: Tell, caplog: pytest.LogCaptureFixture
) -> None:
    """A server without conditions works with a warning. Guards against refusing a storage that one coordinator can use,
    and using it without a word."""
    server = object_store("s3")
    proxy = proxied(server)
    with caplog.at_level(logging.WARNING, "holdfast.storage"):
        survive(server, proxy, lambda call: Answer(501) if call.is_create else None, tell, rounds=3)
    assert proxy.faults()
    assert "does not know the condition If-None-Match" in caplog.text


def test_parts_that_are_cut(object_store: ObjectStore, proxied: Proxied, tell: Tell) -> None:
    """Cut parts are sent again, and uploads are ended. Guards against a missing or doubled part, and an upload that
    costs money for ever."""

    def is_of_an_upload(call: Call) -> bool:
        return call.writes and "uploadId" in call.query

    server = object_store("s3")
    proxy = proxied(server)
    plan = at_random(6, {CutRequest(): 0.2, LoseReply(): 0.1}, is_of_an_upload)
    root = survive(server, proxy, plan, tell, rounds=5, megabytes=40)
    assert len(proxy.faults()) > 10
    assert uploads(server, root) == []


PROGRAM = """
import json, sys
from holdfast_storage.store import open_store
from support.light_worker import LightWorker, cluster_of, state, tensor
url, options, coordinator = json.loads(sys.argv[1])
worker = LightWorker(open_store(url, options, write_buffer=20 << 20), 0, cluster_of(1), coordinator=coordinator)
worker.join()
worker.save(1, state(more=[tensor("model/large", (40, 250_000))])).wait(600.0)
"""


@pytest.mark.processes
def test_uploads_of_a_killed_worker_are_removed(object_store: ObjectStore, proxied: Proxied, tell: Tell) -> None:
    """Uploads of a killed worker are removed. Guards against parts that no listing shows and that cost money
    for ever."""
    server = object_store("s3")
    proxy = proxied(server)
    location = server.location(proxy.endpoint)
    root = location.url.partition("://")[2]
    tell(server.location())
    arrived = threading.Event()

    def plan(call: Call) -> Fault | None:
        if "partNumber" not in call.query:
            return None
        if call.query["partNumber"] == ["1"]:
            return None
        arrived.set()
        return Stall(600.0)

    proxy.plan = plan
    coordinator = Coordinator(roots=[location.url])
    killed = Child(["-c", PROGRAM, json.dumps([location.url, location.storage_options, coordinator.address])])
    try:
        assert arrived.wait(60.0)
    finally:
        killed.end()
        coordinator.stop()
    assert uploads(server, root)

    with new_job(open_store(location.url, server.options(server.endpoint))) as after:
        after.save_and_restore(2, 0)
        live = after.told[0].partition("/")[0]
        until(lambda: not uploads(server, root))
        assert children(server, root) == sorted(["_holdfast", "checkpoint", live])


def uploads(server: Server, root: str) -> list[str]:
    """Keys of uploads that were begun and not ended."""
    found = server.files.call_s3("list_multipart_uploads", Bucket=BUCKET, Prefix=root.partition("/")[2])
    return [each["Key"] for each in found.get("Uploads", [])]
