"""Committed checkpoints made of ones that TensorFlow wrote."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.checkpoint.manifest import Manifest, ObjectRecord
from holdfast_storage.cluster import Task
from holdfast_storage.layout import local_prefix, manifest_object, prefix
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store import Store

WORKERS = (Task("worker", 0), Task("worker", 1))


def commit(
    store: Store,
    stock: str,
    *,
    world: Sequence[Task] = WORKERS,
    own: Mapping[Task, Mapping[str, Any]] | None = None,
    per_worker: Mapping[Task, Any] | None = None,
) -> CheckpointRecord:
    """Put a stock checkpoint into the store as the first of a run.

    own: what is in the local bundles, by worker and key, keys as they are there.
    per_worker: a tf.train.Checkpoint of each worker.
    """
    where = prefix("ckpt", 1, "0badcafe", 1)
    folder = where.rpartition("/")[0]
    objects = []

    def put(name: str, file: str, role: str, task: Task | None) -> None:
        data = Path(file).read_bytes()
        store.write(f"{folder}/{name}", [data])
        objects.append(ObjectRecord(name, len(data), crc32c(data), role, task))

    for file in sorted(glob.glob(f"{glob.escape(stock)}.*")):
        suffix = file.removeprefix(stock)
        put(f"ckpt-1{suffix}", file, "index" if suffix == ".index" else "data", None)
    for task in world:
        tensors = {**(own or {}).get(task, {}), **_tensors((per_worker or {}).get(task))}
        if tensors:
            with tempfile.TemporaryDirectory() as scratch:
                write_bundle(f"{scratch}/local", tensors)
                for file in sorted(glob.glob(f"{scratch}/local.*")):
                    name = local_prefix(folder, task).removeprefix(f"{folder}/") + file.removeprefix(f"{scratch}/local")
                    put(name, file, "local", task)
    manifest = Manifest(where, 1, 1.0, "0badcafe", tuple(world), tuple(objects)).to_bytes()
    store.write(manifest_object(folder), [manifest])
    return CheckpointRecord(where, 1, 1.0, manifest_crc32c=crc32c(manifest))


def write_bundle(path: str, tensors: Mapping[str, Any]) -> None:
    """A bundle of tensors by key, without an object graph unless it is one of them."""
    tf.raw_ops.SaveV2(
        prefix=path,
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.convert_to_tensor(each) for each in tensors.values()],
    )


def _tensors(checkpoint: Any) -> dict[str, Any]:
    if checkpoint is None:
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        prefix = checkpoint.write(f"{scratch}/per_worker")
        dtypes = tf.train.load_checkpoint(prefix).get_variable_to_dtype_map()
        read = tf.raw_ops.RestoreV2(
            prefix=prefix, tensor_names=list(dtypes), shape_and_slices=[""] * len(dtypes), dtypes=list(dtypes.values())
        )
        return dict(zip(dtypes, read, strict=True))
