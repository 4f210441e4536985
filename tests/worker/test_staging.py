"""Staging: what TensorFlow is given to read is verified, complete, and stays."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from holdfast.restoring import staging
from holdfast.restoring.staging import stage
from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.index import full_record, write_index
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CheckpointDamaged, StorageError
from holdfast_storage.layout import data_object
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store import Store, open_store
from support.checkpoints import WORKERS, commit
from support.faulty_store import FaultyStore
from support.stores import KINDS, new_store

pytestmark = pytest.mark.tensorflow

CHIEF, OTHER = WORKERS
A = "a/.ATTRIBUTES/VARIABLE_VALUE"
B = "b/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files; nothing may be left in it, nor any file open."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = _open_files(tmp_path)
    yield folder
    assert list(folder.iterdir()) == []
    assert _open_files(tmp_path) == before


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return new_store(request.param, tmp_path)


@pytest.fixture
def stock(tmp_path: Path) -> str:
    return save(tmp_path, a=np.arange(1000.0), b=np.arange(6.0).reshape(2, 3))


def save(tmp_path: Path, **values: Any) -> str:
    checkpoint = tf.train.Checkpoint(**{name: tf.Variable(value) for name, value in values.items()})
    return str(checkpoint.save(str(tmp_path / "stock" / "ckpt")))


def value(prefix: str, key: str) -> Any:
    return tf.train.load_checkpoint(prefix).get_tensor(key)


def test_variables_created_after_the_checkpoint_was_deleted(store: Store, stock: str, scratch: Path) -> None:
    """Variables are restored even after the checkpoint was deleted. Guards against retention that deletes what later
    variables still need."""
    record = commit(store, stock)
    with stage(store, record, task=OTHER, world=WORKERS) as staged:
        checkpoint = tf.train.Checkpoint()
        status = checkpoint.restore(staged.prefix)
        store.delete_folder(record.folder)
        checkpoint.a = tf.Variable(np.zeros(1000))
        checkpoint.b = tf.Variable(np.zeros((2, 3)))
        status.assert_consumed()
        np.testing.assert_array_equal(checkpoint.a, np.arange(1000.0))
        np.testing.assert_array_equal(checkpoint.b, np.arange(6.0).reshape(2, 3))


def test_a_forked_process_that_ends_leaves_it_alone(store: Store, stock: str, scratch: Path) -> None:
    """A fork that ends does not touch what is staged. Guards against a parent whose variables can no longer be
    restored."""
    with stage(store, commit(store, stock), task=OTHER, world=WORKERS) as staged:
        child = os.fork()
        if child == 0:
            staged.close()
            os._exit(0)
        os.waitpid(child, 0)
        np.testing.assert_array_equal(value(staged.prefix, A), np.arange(1000.0))


def test_own_value_in_place_of_the_chiefs(store: Store, stock: str, scratch: Path) -> None:
    """A worker gets its own value in place of the chief's. Guards against a worker that restores the chief's moving
    average or seed."""
    record = commit(store, stock, own={OTHER: {f"{B}/.OWN": -np.ones((2, 3))}, CHIEF: {f"{B}/.OWN": np.ones((2, 3))}})
    for task, expected in ((CHIEF, 1.0), (OTHER, -1.0)):
        with stage(store, record, task=task, world=WORKERS) as staged:
            np.testing.assert_array_equal(value(staged.prefix, B), np.full((2, 3), expected))
            np.testing.assert_array_equal(value(staged.prefix, A), np.arange(1000.0))
            checkpoint = tf.train.Checkpoint(a=tf.Variable(np.zeros(1000)), b=tf.Variable(np.zeros((2, 3))))
            checkpoint.restore(staged.prefix).assert_consumed()


def test_own_value_of_a_sliced_tensor(store: Store, tmp_path: Path, scratch: Path) -> None:
    """A worker gets its own value of a sliced tensor. Guards against the chief's slices, left in the index and read."""
    parts = [str(tmp_path / "part-0"), str(tmp_path / "part-1")]
    for row, part in enumerate(parts):
        tf.raw_ops.SaveV2(
            prefix=part,
            tensor_names=["big", "small"] if row == 0 else ["big"],
            shape_and_slices=[f"2 3 {row},1:0,3", ""] if row == 0 else [f"2 3 {row},1:0,3"],
            tensors=[tf.fill([1, 3], float(row)), tf.constant(5)] if row == 0 else [tf.fill([1, 3], float(row))],
        )
    merged = str(tmp_path / "merged")
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=merged)
    record = commit(store, merged, own={OTHER: {"big/.OWN": np.full((2, 3), 7.0, np.float32)}})
    with stage(store, record, task=CHIEF, world=WORKERS) as staged:
        np.testing.assert_array_equal(value(staged.prefix, "big"), [[0.0] * 3, [1.0] * 3])
    with stage(store, record, task=OTHER, world=WORKERS) as staged:
        np.testing.assert_array_equal(value(staged.prefix, "big"), np.full((2, 3), 7.0))
        assert value(staged.prefix, "small") == 5


def test_another_world_starts_from_the_chiefs_values(store: Store, stock: str, scratch: Path) -> None:
    """Another world starts from the chief's values. Guards against a worker-1 of three that gets the values of worker-1
    of two."""
    record = commit(
        store,
        stock,
        own={OTHER: {f"{B}/.OWN": -np.ones((2, 3))}},
        per_worker={OTHER: tf.train.Checkpoint(position=tf.Variable(7))},
    )
    with stage(store, record, task=OTHER, world=[*WORKERS, Task("worker", 2)]) as staged:
        assert not staged.world_matches
        assert (staged.local_prefix, staged.has_per_worker, dict(staged.replicas)) == (None, False, {})
        np.testing.assert_array_equal(value(staged.prefix, B), np.arange(6.0).reshape(2, 3))


def test_what_is_a_workers_own(store: Store, stock: str, scratch: Path) -> None:
    """A restore knows which values are worker-local. Guards against values that are there and not used."""
    record = commit(
        store,
        stock,
        own={OTHER: {f"{A}/.REPLICA/0": np.zeros(1000), f"{A}/.REPLICA/1": np.ones(1000)}},
        per_worker={OTHER: tf.train.Checkpoint(position=tf.Variable(7))},
    )
    with stage(store, record, task=OTHER, world=WORKERS[::-1]) as staged:
        assert staged.world_matches
        assert staged.has_per_worker
        assert dict(staged.replicas) == {A: 2}
        assert staged.local_prefix is not None
        np.testing.assert_array_equal(value(staged.local_prefix, f"{A}/.REPLICA/1"), np.ones(1000))
        np.testing.assert_array_equal(value(staged.prefix, A), np.arange(1000.0))
        assert staged.manifest is not None
        assert staged.manifest.world == WORKERS
    with stage(store, record, task=CHIEF, world=WORKERS) as staged:
        assert staged.local_prefix is None


def test_damage_is_found_before_anything_is_restored(store: Store, stock: str, scratch: Path) -> None:
    """Damage is found before anything is restored. Guards against a flipped bit that TensorFlow notices in the middle
    of a restore, or not at all."""
    record = commit(store, stock)
    name = f"{record.prefix}.data-00000-of-00001"
    data = bytearray(store.read(name))
    data[100] ^= 1
    store.replace(name, bytes(data))
    with pytest.raises(CheckpointDamaged, match="data-00000-of-00001"):
        stage(store, record, task=CHIEF, world=WORKERS)


@pytest.mark.parametrize("task", WORKERS)
def test_damage_of_what_another_worker_needs(task: Task, tmp_path: Path, stock: str, scratch: Path) -> None:
    """Damage of another worker's own data does not matter here. Guards against condemning a checkpoint for an object
    that this worker does not need."""
    store = open_store(tmp_path / "run")
    record = commit(store, stock, per_worker={OTHER: tf.train.Checkpoint(position=tf.Variable(7))})
    (tmp_path / "run" / record.folder / "local" / f"{OTHER}.data-00000-of-00001").unlink()
    if task == CHIEF:
        stage(store, record, task=task, world=WORKERS).close()
    else:
        with pytest.raises(CheckpointDamaged, match="local/worker-1"):
            stage(store, record, task=task, world=WORKERS)


def test_unreadable_is_not_damaged(stock: str, tmp_path: Path, scratch: Path) -> None:
    """An unreadable object is not damaged. Guards against condemning a checkpoint because the storage was away for a
    moment."""
    store = open_store(tmp_path / "run")
    record = commit(store, stock)
    with pytest.raises(StorageError):
        stage(FaultyStore(store, {("read_into", 0): "fail"}), record, task=CHIEF, world=WORKERS)


@pytest.mark.parametrize("free", [0, 1 << 40])
def test_where_it_is_kept(
    free: int, stock: str, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read is kept in memory, or in files if memory is short. Guards against a copy on a disk that the host may
    not have, and a process that is killed."""
    monkeypatch.setattr(staging, "available", lambda: free)
    store = new_store("memory", tmp_path)
    with stage(store, commit(store, stock), task=CHIEF, world=WORKERS) as staged:
        data = os.readlink(f"{staged.prefix}.data-00000-of-00001")
        kept = os.readlink(data)
        assert kept.startswith(str(scratch) if free == 0 else "/memfd:holdfast ")
        assert len([name for name in os.listdir(scratch) if not name.startswith("holdfast-")]) == 0
        assert tf.train.load_checkpoint(staged.prefix).has_tensor(B)


@pytest.mark.parametrize("free", [0, 1 << 40])
def test_no_room_for_the_copy(
    free: int, stock: str, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full temporary folder is a StorageError. Guards against taking it for damage of the checkpoint, or not noticing
    it."""
    monkeypatch.setattr(staging, "available", lambda: free)
    store = new_store("memory", tmp_path)
    record = commit(store, stock)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError, match="in memory" if free else "TMPDIR"):
        stage(store, record, task=CHIEF, world=WORKERS)


def test_stock_checkpoint(stock: str, tmp_path: Path, scratch: Path) -> None:
    """A stock checkpoint is staged. Guards against a directory of TensorFlow's manager that cannot be taken over."""
    store = open_store(tmp_path / "stock")
    record = CheckpointRecord("ckpt-1", 1, 1.0, stock=True)
    with stage(store, record, task=CHIEF, world=[CHIEF]) as staged:
        np.testing.assert_array_equal(value(staged.prefix, A), np.arange(1000.0))
        assert (staged.manifest, staged.world_matches, staged.local_prefix) == (None, False, None)


def _open_files(folder: Path) -> list[str]:
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return sorted(path for path in found if path.startswith((str(folder), "/memfd:holdfast")))


def test_shards_that_nobody_has(tmp_path: Path, scratch: Path) -> None:
    """An index with an absurd number of shards is damage. Guards against two thousand million shards that take all
    memory."""
    store = open_store(tmp_path / "run")
    shards, data = 2**31 - 1, np.float32(7.0).tobytes()
    key, entry = full_record(A, 1, (), shard=0, offset=0, size=4, crc32c=mask(crc32c(data)))
    store.write("ckpt-1.index", [write_index(shards, [(key, entry.SerializeToString())])])
    store.write(data_object("ckpt-1", 0, shards), [data])
    with stage(store, CheckpointRecord("ckpt-1", 1, 0.0, stock=True), task=CHIEF, world=WORKERS) as staged:
        assert value(staged.prefix, A) == 7.0
