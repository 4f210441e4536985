"""Runs with committed checkpoints of several workers, made by the project's own writing code without a coordinator."""

from __future__ import annotations

import json
from collections.abc import Sequence

from holdfast.saving.digest import tensor_crcs
from holdfast.saving.plan import plan
from holdfast.saving.write import worker_local_tensors, write_objects, write_worker_local
from holdfast_coordinator.core.effects import Finalize
from holdfast_coordinator.core.messages import SaveReport
from holdfast_coordinator.finalize import Payload, finalize
from holdfast_protos.v1.coordinator_pb2 import IndexEntry
from holdfast_storage import layout
from holdfast_storage.cluster import Task
from holdfast_storage.log.log import Log, Published
from holdfast_storage.records import CheckpointRecord, Entry, Generation, Leader, LogState
from holdfast_storage.stock import state_file
from holdfast_storage.store import Store
from support.light_worker import state

GENERATION = "0badcafe"
OWN = "statistics/mean"  # differs between the workers


def commit_run(store: Store, steps: Sequence[int], world: Sequence[Task]) -> LogState:
    """A run with one checkpoint for each step, and TensorFlow's state file; the state that its log ends in."""
    run = LogState("run").lead(Leader("leader", "", ""), Generation(GENERATION, tuple((t, f"p{t}.1") for t in world)))
    for number, step in enumerate(steps):
        run = run.commit(write_checkpoint(store, run, step, number + 1))
        assert Log(store).publish(Entry(number, "commit", f"leader.{number}", 0.0, run), 0.0) == Published()
    store.replace(layout.STATE_FILE, state_file.to_bytes(run))
    return run


def write_checkpoint(store: Store, run: LogState, step: int, ordinal: int) -> CheckpointRecord:
    """Everything of a checkpoint but its log entry."""
    assert run.generation is not None
    tasks = [task for task, _ in run.generation.members]
    prefix = layout.prefix("ckpt", step, run.generation.id, ordinal)
    reports = []
    for worker, task in enumerate(tasks):
        reports.append((task, _report(store, prefix, worker, tasks, step)))
    cluster = (("worker", tuple(f"host-{task.index}:1" for task in tasks)),)
    done = finalize(store, Finalize(run.generation, cluster, ordinal, step, "ckpt", tuple(reports)))
    assert done.failure is None
    return CheckpointRecord(prefix, step, float(step), manifest_crc32c=done.manifest_crc32c)


def _report(store: Store, prefix: str, worker: int, tasks: Sequence[Task], step: int) -> SaveReport:
    snapshot = state(seed=step, local=(OWN,), own=worker)
    local = [position for position, tensor in enumerate(snapshot.tensors) if tensor.key == OWN]
    shared = plan(snapshot.specs, len(tasks), local)
    written = write_objects(store, prefix, shared, worker, snapshot, crcs=tensor_crcs(snapshot.tensors))
    own = write_worker_local(store, prefix.rpartition("/")[0], tasks[worker], worker_local_tensors(snapshot, local))
    description = {
        "time": float(step), "strategy": "", "versions": {}, "git_commit": "", "metadata": {}, "metrics": {},
        "local_keys": [OWN],
    }  # fmt: skip
    entries = [IndexEntry(key=key, record=entry.SerializeToString()) for key, entry in written.entries]
    payload = Payload(shared.num_shards, json.dumps(description), [*written.objects, *own], entries)
    return SaveReport(step, "ckpt", tuple(local), payload)
