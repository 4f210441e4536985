"""Members that say what nobody has asked them about a new checkpoint, so that what it replaces is removed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import holdfast.session.reading_back
from holdfast_protos.client import Refusal
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.checkpoint.manifest import read_manifest
from holdfast_storage.checkpoint.verify import verify_checkpoint
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store import Store
from support.coordinators import Coordinator
from support.light_worker import LightWorker, World, all_join, committed, log_kinds, outcomes, until


@pytest.fixture
def reading(
    store: Store, coordinator: Coordinator, world: World, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[LightWorker]]:
    """Two workers that are reading the second checkpoint back, until the test ends."""
    go = threading.Event()

    def slowly(*args: Any, **how: Any) -> Any:
        go.wait(30.0)
        return verify_checkpoint(*args, **how)

    monkeypatch.setattr(holdfast.session.reading_back, "verify_checkpoint", slowly)
    workers = world(2, coordinator, max_to_keep=1)
    all_join(workers)
    for step in (1, 2):
        assert outcomes([worker.save(step) for worker in workers]) == [None, None]
    until(lambda: "back by worker-0, worker-1" in coordinator.status(store.url).reason)
    yield workers
    go.set()


def says(worker: LightWorker, record: CheckpointRecord, **change: Any) -> pb.ExaminedRequest:
    """A worker's word that all of a checkpoint is good."""
    names = [each.name for each in read_manifest(worker.store, record).objects]
    fields = {"prefix": record.prefix, "good": names, "verdict": "good", **change}
    return pb.ExaminedRequest(caller=worker.session.caller(), **fields)


def tell(worker: LightWorker, request: pb.ExaminedRequest) -> None:
    assert worker.session._link is not None
    worker.session._link.examined(request, 9.0)


def test_one_member_does_not_speak_for_all(store: Store, reading: list[LightWorker]) -> None:
    """A member's word counts for what it was asked to read, once, whatever it names. Guards against one that calls good
    what the others have not read yet: all that went before would be removed."""
    record = committed(store)[-1]
    for _ in range(5):
        tell(reading[0], says(reading[0], record))
    assert "retire" not in log_kinds(store)
    tell(reading[1], says(reading[1], record))
    until(lambda: "retire" in log_kinds(store))


def test_another_checkpoint(store: Store, reading: list[LightWorker]) -> None:
    """A word about another checkpoint than the one that is being read changes nothing. Guards against one that was good
    and stands in for one that is not."""
    record = committed(store)[-1]
    others = (committed(store)[0].prefix, "ckpt-9.0123abcd.9/ckpt-9", f"{record.prefix}x", "../x", "")
    for worker in reading:
        for prefix in others:
            for verdict in ("good", "damaged"):
                tell(worker, says(worker, record, prefix=prefix, verdict=verdict))
    assert "retire" not in log_kinds(store)
    for worker in reading:
        tell(worker, says(worker, record))
    until(lambda: "retire" in log_kinds(store))


def test_words_of_absurd_sizes(store: Store, reading: list[LightWorker]) -> None:
    """A word that is larger than any question is refused, and the reading goes on. Guards against a coordinator whose
    memory is filled by names of objects."""
    record = committed(store)[-1]
    for change in ({"good": ["x"] * 1_001}, {"good": ["x" * 257]}, {"prefix": "x" * 5_000}, {"verdict": "perfect"}):
        with pytest.raises(Refusal, match="what no worker sends"):
            tell(reading[0], says(reading[0], record, **change))
    with pytest.raises(Refusal, match="bytes; at most"):
        tell(reading[0], says(reading[0], record, reason="x" * (1 << 20)))
    assert "retire" not in log_kinds(store)
    for worker in reading:
        tell(worker, says(worker, record, reason="x" * 100_000))
    until(lambda: "retire" in log_kinds(store))
