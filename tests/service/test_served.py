"""Saves of a chief and parameter servers, each of which holds values of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from holdfast.saving.save import Save
from holdfast.saving.shares import Assigned, Share, plan_shares
from holdfast.saving.snapshot import Snapshot, SnapshotTensor
from holdfast.session.session import Session
from holdfast.session.this_task import ThisTask
from holdfast_storage.bundle.index import header_record
from holdfast_storage.checkpoint.manifest import read_manifest
from holdfast_storage.checkpoint.verify import verify_checkpoint
from holdfast_storage.cluster import Cluster, Task
from holdfast_storage.errors import SaveFailed
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store
from support.bundles import stored
from support.coordinators import Coordinator
from support.light_worker import LightWorker, all_join, committed, outcomes, state, tensor

CLUSTER: Cluster = (("chief", ("c:1",)), ("ps", ("p:1", "q:1")), ("worker", ("w:1", "x:1")))
TASKS = (Task("chief", 0), Task("ps", 0), Task("ps", 1))
TABLE = tensor("table", (10, 4))
GRAPH = state().object_graph


@pytest.fixture
def members(store: Store, coordinator: Coordinator) -> Iterator[list[LightWorker]]:
    """The chief and two servers. Workers never join."""
    found = []
    for task in TASKS:
        worker = LightWorker(store, 0, CLUSTER, coordinator=coordinator.address)
        # The same process, by another task.
        session = Session(ThisTask(task, CLUSTER), store, coordinator.address, 60.0)
        session._incarnation, session._access = worker.session._incarnation, worker.session._access
        worker.session = session
        found.append(worker)
    all_join(found)
    yield found
    for worker in found:
        worker.close(0.0)


def held(task: int) -> list[SnapshotTensor]:
    """What a task holds: the chief and the first server a tensor each, both servers a half of a table."""
    half = SnapshotTensor("table", TABLE.dtype, (5, 4), TABLE.data[80 * (task - 1) : 80 * task])
    return [[tensor("own", (3,))], [half, tensor("whole", (7,))], [half]][task]


def save(members: list[LightWorker], step: int, snapshots: tuple[bytes, ...] = (b"1", b"1", b"1")) -> list[Save]:
    extents: list[list[Any]] = [[None], [((0, 5), (0, 4)), None], [((5, 5), (0, 4))]]
    shares = plan_shares(
        [[Share(t.spec, e) for t, e in zip(held(n), extents[n], strict=True)] for n in range(len(members))]
    )
    headers = tuple(header_record(key, TABLE.dtype, (10, 4), found) for key, found in shares.slices.items())
    return [
        member.save(
            step,
            Snapshot(tuple(held(n)), GRAPH),
            assigned=Assigned(shares.digest, snapshots[n], shares.plan, headers=headers if n == 0 else ()),
        )
        for n, member in enumerate(members)
    ]


def test_each_writes_what_it_holds(store: Store, members: list[LightWorker]) -> None:
    """Ballots without checksums are a vote, and what all hold is one checkpoint. Guards against a coordinator that
    counts what nobody has voted for as wrong, or that waits for workers."""
    assert outcomes(save(members, 3)) == [None] * 3
    (record,) = committed(store)
    assert stored(store, record.prefix) == {
        "own": bytes(tensor("own", (3,)).data),
        "table": bytes(TABLE.data),
        "whole": bytes(tensor("whole", (7,)).data),
        GRAPH.key: bytes(GRAPH.data),
    }
    manifest = read_manifest(store, record)
    assert manifest.world == TASKS
    assert {each.task for each in manifest.objects if each.role == "data"} == set(TASKS)
    assert verify_checkpoint(store, record).verdict == "good"


def test_another_snapshot_is_no_part_of_the_save(store: Store, members: list[LightWorker]) -> None:
    """A server that saves another snapshot than the chief's, of the same plan, makes the save fail, and the next one is
    committed. Guards against parts of two moments in one checkpoint."""
    failed = outcomes(save(members, 3, (b"1", b"1", b"2")))
    assert all(isinstance(each, SaveFailed) for each in failed)
    assert any("not all tasks have the same snapshot" in str(each) for each in failed)
    assert read_run(store) is None
    assert outcomes(save(members, 4)) == [None] * 3
    assert [record.step for record in committed(store)] == [4]
