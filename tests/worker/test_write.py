"""Objects and index of one checkpoint, as N workers write them, read back by TensorFlow."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from holdfast.saving.capture import capture
from holdfast.saving.digest import tensor_crcs
from holdfast.saving.plan import plan
from holdfast.saving.snapshot import Snapshot
from holdfast.saving.write import Written, worker_local_tensors, write_objects, write_worker_local
from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.bundle.index import Index, write_index
from holdfast_storage.cluster import Task
from holdfast_storage.errors import InvalidRequest, StorageError
from holdfast_storage.store.base import Store
from holdfast_storage.store.posix import PosixStore

pytestmark = pytest.mark.tensorflow

PREFIX = "ckpt-3.0badcafe.1/ckpt-3"
FOLDER = "ckpt-3.0badcafe.1"


def state(seed: int = 0) -> tf.train.Checkpoint:
    """Something of everything: small, large enough to be sliced by rows and within rows, strings, nothing at all."""
    random = np.random.default_rng(seed)
    module = tf.Module()
    module.small = [tf.Variable(random.standard_normal([n, 3], np.float32)) for n in range(200)]
    module.large = tf.Variable(random.standard_normal([50_000, 40], np.float32))
    module.wide = tf.Variable(tf.cast(random.standard_normal([2, 3, 150_001]), tf.bfloat16))
    module.scalar = tf.Variable(7, dtype=tf.int64)
    module.names = tf.Variable(["one", "two"])
    return tf.train.Checkpoint(module=module)


def write(store: Store, snapshot: Snapshot, workers: int, by_chief: tuple[int, ...] = ()) -> list[Written]:
    crcs = tensor_crcs(snapshot.tensors)
    written = []
    for worker in range(workers):
        made = plan(snapshot.specs, workers, by_chief)
        written.append(write_objects(store, PREFIX, made, worker, snapshot, crcs=crcs))
    records = [(key, entry.SerializeToString()) for part in written for key, entry in part.entries]
    store.write(f"{PREFIX}.index", [write_index(made.num_shards, records)])
    return written


def scrambled(checkpoint: tf.train.Checkpoint) -> tf.train.Checkpoint:
    other = state(seed=1)
    other.module.scalar.assign(0)
    other.module.names.assign(["", ""])
    return other


def values(checkpoint: tf.train.Checkpoint) -> list[Any]:
    return [variable.numpy() for variable in checkpoint.module.variables]


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_tensorflow_restores_what_the_workers_wrote(workers: int, tmp_path: Path) -> None:
    """TensorFlow restores what the workers wrote, slices included. Guards against files that are a checkpoint only to
    us."""
    checkpoint = state()
    checkpoint.save_counter.assign_add(1)
    snapshot = capture(checkpoint)
    store = PosixStore(str(tmp_path))
    written = write(store, snapshot, workers)
    sliced = plan(snapshot.specs, workers).sliced
    assert {snapshot.tensors[position].key.split("/")[1] for position in sliced} == (
        set() if workers == 1 else {"large"} if workers == 2 else {"large", "wide"}
    )

    prefix = os.path.join(tmp_path, PREFIX)
    reader = tf.train.load_checkpoint(prefix)
    assert reader.get_variable_to_shape_map().keys() == {t.key for t in (*snapshot.tensors, snapshot.object_graph)}
    other = scrambled(checkpoint)
    other.restore(prefix).assert_consumed()
    for expected, found in zip(values(checkpoint), values(other), strict=True):
        np.testing.assert_array_equal(found, expected)

    # Bytes on storage: the state once, however many wrote it.
    total = sum(stored.size for part in written for stored in part.objects)
    assert total == sum(len(t.data) for t in (*snapshot.tensors, snapshot.object_graph))
    for stored in (stored for part in written for stored in part.objects):
        data = store.read(f"{FOLDER}/{stored.name}")
        assert (stored.role, stored.size, stored.crc32c) == ("data", len(data), crc32c(data))


def test_worker_local_values_come_from_the_chief(tmp_path: Path) -> None:
    """The stock key has the chief's value of a worker-local tensor. Guards against the value of the worker into whose
    part it fell."""
    mine, chiefs = capture(state(seed=1)), capture(state(seed=0))
    position = next(p for p, t in enumerate(mine.tensors) if "/large/" in t.key)
    made = plan(mine.specs, 2, [position])
    store = PosixStore(str(tmp_path))
    parts = [
        write_objects(store, PREFIX, made, worker, snapshot, crcs=tensor_crcs(snapshot.tensors))
        for worker, snapshot in enumerate([chiefs, mine])
    ]
    records = [(key, entry.SerializeToString()) for part in parts for key, entry in part.entries]
    store.write(f"{PREFIX}.index", [write_index(made.num_shards, records)])
    found = tf.train.load_checkpoint(os.path.join(tmp_path, PREFIX)).get_tensor(mine.tensors[position].key)
    assert found.tobytes() == chiefs.tensors[position].data


def test_a_workers_own_is_a_stock_checkpoint(tmp_path: Path) -> None:
    """A worker's own bundle is a stock checkpoint. Guards against an input position that a machine without Holdfast
    cannot read."""
    snapshot = capture(state())
    own = tf.train.Checkpoint(iterator=iter(tf.data.Dataset.range(100).shuffle(50, seed=3)), step=tf.Variable(5))
    for _ in range(10):
        next(own.iterator)
    tensors = worker_local_tensors(snapshot, [0, 3], capture(own))
    store = PosixStore(str(tmp_path))
    objects = write_worker_local(store, FOLDER, Task("worker", 2), tensors)
    assert [stored.name for stored in objects] == ["local/worker-2.data-00000-of-00001", "local/worker-2.index"]
    for stored in objects:
        data = store.read(f"{FOLDER}/{stored.name}")
        assert (stored.role, stored.size, stored.crc32c) == ("local", len(data), crc32c(data))

    prefix = os.path.join(tmp_path, FOLDER, "local/worker-2")
    key = snapshot.tensors[3].key
    assert tf.train.load_checkpoint(prefix).get_tensor(f"{key}/.OWN").tobytes() == snapshot.tensors[3].data
    expected = [int(next(own.iterator)) for _ in range(90)]
    resumed = tf.train.Checkpoint(iterator=iter(tf.data.Dataset.range(100).shuffle(50, seed=4)), step=tf.Variable(0))
    resumed.read(prefix).assert_consumed()
    assert [int(next(resumed.iterator)) for _ in range(90)] == expected
    assert resumed.step.numpy() == 5
    assert write_worker_local(store, FOLDER, Task("worker", 3), []) == ()


def test_distributed_variables_in_per_worker_are_refused() -> None:
    """Distributed variables in `per_worker` are refused. Guards against replicas under keys that nobody looks at."""
    snapshot = capture(state())
    per_worker = replace(snapshot, replicas=(replace(snapshot.tensors[0], key="x/.REPLICA/0"),))
    with pytest.raises(InvalidRequest, match=r"x/\.REPLICA/0"):
        worker_local_tensors(snapshot, [], per_worker)


def test_the_index_vouches_for_every_slice(tmp_path: Path) -> None:
    """TensorFlow finds a flipped bit in any slice. Guards against stock readers, which have only this check, that load
    damage."""
    snapshot = capture(state())
    write(PosixStore(str(tmp_path)), snapshot, 8)
    prefix = tmp_path / PREFIX
    index = Index.parse(Path(f"{prefix}.index").read_bytes())
    for key, extents in list(index.slices)[::3]:
        entry = index.slices[key, extents]
        path = f"{prefix}.data-{entry.shard:05d}-of-{index.num_shards:05d}"
        flip(path, entry.offset + entry.size // 2)
        with pytest.raises(tf.errors.OpError, match="Checksum"):
            tf.train.load_checkpoint(str(prefix)).get_tensor(key)
        flip(path, entry.offset + entry.size // 2)
    for key in index.tensors:
        tf.train.load_checkpoint(str(prefix)).get_tensor(key)


def flip(path: str, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_progress_counts_every_byte_and_can_end_the_write(tmp_path: Path) -> None:
    """Progress counts every byte, and an error in it ends the write. Guards against a save that was given up and goes
    on to fill the storage."""
    snapshot = capture(state())
    crcs = tensor_crcs(snapshot.tensors)
    counted: list[int] = []
    made = plan(snapshot.specs, 1)
    write_objects(PosixStore(str(tmp_path / "a")), PREFIX, made, 0, snapshot, crcs=crcs, progress=counted.append)
    assert sum(counted) == sum(len(t.data) for t in (*snapshot.tensors, snapshot.object_graph))

    def give_up(_: int) -> None:
        raise InvalidRequest("given up")

    with pytest.raises(InvalidRequest, match="given up"):
        write_objects(PosixStore(str(tmp_path / "b")), PREFIX, made, 0, snapshot, crcs=crcs, progress=give_up)


def test_an_object_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """An object that cannot be written is named with its path. Guards against a failed save that does not say what
    failed."""
    snapshot = capture(state())
    store = PosixStore(str(tmp_path))
    write(store, snapshot, 1)
    with pytest.raises(StorageError, match="data-00000-of-00001"):
        write(store, snapshot, 1)
