"""Staging of deltas: TensorFlow reads the state that was saved, put together from the whole chain."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from holdfast.restoring import staging
from holdfast.restoring.apply import apply
from holdfast.restoring.large_tensors import Values
from holdfast.restoring.staging import Staged, stage
from holdfast_storage.bundle.index import Index
from holdfast_storage.checkpoint.chain import read_chain
from holdfast_storage.checkpoint.materialize import Materializing
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CheckpointAbsent, CheckpointDamaged, StorageError
from holdfast_storage.layout import index_object
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store import Store, open_store
from support.bundles import stored
from support.chains import Chain
from support.stores import KINDS, new_store

pytestmark = pytest.mark.tensorflow

WORLD = (Task("worker", 0), Task("worker", 1))
TABLE, SMALL, HALF, DENSE = (f"{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in ("table", "small", "half", "dense"))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files; nothing may be left in it."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = len(os.listdir("/proc/self/fd"))
    yield folder
    assert list(folder.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before


def variables(seed: int) -> dict[str, Any]:
    """A table large enough for TensorFlow's memory, one that is not, one that is never sliced, and what is not by
    rows."""
    random = np.random.default_rng(seed)
    return {
        "table": random.random((3000, 8), np.float32),
        "small": random.integers(0, 99, (20, 3)),
        "half": random.random((5000, 16), np.float32).astype(np.float16),
        "dense": random.random((300, 100), np.float32),
    }


def state(tmp_path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """What TensorFlow saves of variables, with the object graph, by key."""
    checkpoint = tf.train.Checkpoint(**{name: tf.Variable(value) for name, value in values.items()})
    assert checkpoint.save_counter is not None  # makes it
    store, prefix = open_store(tmp_path), os.path.relpath(checkpoint.write(str(tmp_path / "stock")), tmp_path)
    index = Index.parse(store.read(index_object(prefix)))
    found: dict[str, Any] = {}
    for key, data in stored(store, prefix).items():
        entry = index.tensors[key]
        numpy = tf.as_dtype(entry.dtype).as_numpy_dtype
        found[key] = data if entry.dtype == 7 else np.frombuffer(data, numpy).reshape(entry.shape)
    return found


class Saved:
    """A full checkpoint and deltas in a store, and the values of the newest."""

    def __init__(self, tmp_path: Path, store: Store, deltas: int = 3) -> None:
        self.chain = Chain(store, 2, {TABLE: (1000, 1024), SMALL: (7,)})
        self.values = variables(0)
        before = state(tmp_path, self.values)
        self.chain.full(before)
        random = np.random.default_rng(deltas)
        for number in range(deltas):
            self.values = {**self.values, "dense": variables(number + 1)["dense"]}
            for name, new in variables(number + 1).items():
                rows = random.integers(0, len(new), len(new) // 10)
                self.values[name] = np.array(self.values[name])
                self.values[name][rows] = new[rows]
            after = state(tmp_path, self.values)
            self.chain.delta(before, after, [TABLE, SMALL, HALF])
            before = after

    @property
    def record(self) -> CheckpointRecord:
        return self.chain.records[-1]

    def check(self, staged: Staged) -> None:
        """Check that TensorFlow's own restore gives every value."""
        found = tf.train.Checkpoint(**{name: tf.Variable(np.zeros_like(v)) for name, v in self.values.items()})
        apply(found, None, staged).assert_consumed()
        for name, value in self.values.items():
            np.testing.assert_array_equal(getattr(found, name).numpy(), value, name)


@pytest.fixture(params=KINDS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Saved:
    return Saved(tmp_path, new_store(request.param, tmp_path))


@pytest.mark.parametrize("room", ["memory", "files", "little"])
def test_the_newest_state(saved: Saved, scratch: Path, monkeypatch: pytest.MonkeyPatch, room: str) -> None:
    """Whatever memory there is, TensorFlow gets what was saved, bit by bit, and every checksum that it looks at holds.
    Guards against a table as it was at the full checkpoint, and a path that only hosts with little memory take."""
    if room == "little":
        monkeypatch.setattr(staging, "available", lambda: 0)
    values = Values if room == "memory" else None
    read: list[int] = []
    with stage(
        saved.chain.store, saved.record, task=WORLD[0], world=WORLD, values=values, progress=read.append
    ) as staged:
        saved.check(staged)
    assert sum(read) > sum(value.nbytes for value in saved.values.values())


def test_variables_that_are_created_later(saved: Saved, scratch: Path) -> None:
    """What is created after the restore gets its value although the whole chain has been deleted. Guards against values
    that are let go of since files have them: no file has these."""
    store = saved.chain.store
    with stage(store, saved.record, task=WORLD[1], world=WORLD, values=Values) as staged:
        found = tf.train.Checkpoint()
        status = apply(found, None, staged)
        for record in saved.chain.records:
            store.delete_folder(record.folder)
        for name, value in saved.values.items():
            setattr(found, name, tf.Variable(np.zeros_like(value)))
            np.testing.assert_array_equal(getattr(found, name).numpy(), value, name)
        status.assert_consumed()


def test_twenty_deltas_by_another_world(tmp_path: Path, scratch: Path) -> None:
    """A long chain is restored by a world that did not save it. Guards against an evaluator that knows full ones
    alone."""
    saved = Saved(tmp_path, new_store("posix", tmp_path), deltas=20)
    with stage(saved.chain.store, saved.record, task=Task("evaluator", 0), world=(), values=Values) as staged:
        assert not staged.world_matches
        saved.check(staged)


def test_a_workers_own_values(tmp_path: Path, scratch: Path) -> None:
    """A worker gets its own values of the newest link, also of a table that has rows there, and its `per_worker`
    bundle. Guards against the chief's rows in a worker's own table, and against own values of an older link."""
    saved = Saved(tmp_path, new_store("posix", tmp_path))
    before = state(tmp_path, saved.values)
    chiefs = saved.values["table"]
    own = {task: {f"{TABLE}/.OWN": chiefs + 1 + task.index, "mine": np.array(task.index)} for task in WORLD}
    record = saved.chain.delta(before, before, [TABLE, SMALL, HALF], own)
    for values in (Values, None):
        for task in WORLD:
            with stage(saved.chain.store, record, task=task, world=WORLD, values=values) as staged:
                saved.values["table"] = own[task][f"{TABLE}/.OWN"]
                saved.check(staged)
        with stage(saved.chain.store, record, task=Task("worker", 0), world=WORLD[:1], values=values) as staged:
            saved.values["table"] = chiefs
            saved.check(staged)
    with stage(saved.chain.store, record, task=WORLD[1], world=WORLD) as staged:
        assert staged.local_prefix is not None
        assert tf.train.load_checkpoint(staged.local_prefix).get_tensor("mine") == 1


def test_damage_in_any_link_is_named_before_anything_is_applied(tmp_path: Path, scratch: Path) -> None:
    """A flipped row anywhere in the chain ends the restore, and is named. Guards against a base that is believed."""
    saved = Saved(tmp_path, new_store("posix", tmp_path))
    parts = [part for table in read_chain(saved.chain.store, saved.record).tables.values() for part in table.parts]
    found = [each for p in parts for each in (p.whole, *(s for c in p.changes for s in (c.rows, c.values)))]
    for needed in [each for each in found if each.entry.size]:
        path = Path(saved.chain.store.url) / needed.object
        sound, at = path.read_bytes(), needed.entry.offset
        path.write_bytes(b"".join([sound[:at], bytes([sound[at] ^ 1]), sound[at + 1 :]]))
        with pytest.raises(CheckpointDamaged, match=needed.object):
            stage(saved.chain.store, saved.record, task=WORLD[0], world=WORLD, values=Values)
        path.unlink()
        with pytest.raises(CheckpointAbsent, match=needed.object):
            stage(saved.chain.store, saved.record, task=WORLD[0], world=WORLD, values=Values)
        path.write_bytes(sound)


def test_no_room_for_what_is_put_together(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for the tables the restore fails by name, and leaves nothing. Guards against a signal that ends the
    process when a mapped file meets a full disk."""
    saved = Saved(tmp_path, new_store("posix", tmp_path))

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(staging, "available", lambda: 0)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError, match=r"TMPDIR.*No space left"):
        stage(saved.chain.store, saved.record, task=WORLD[0], world=WORLD, values=Values)


def test_stock_tensorflow_reads_what_is_materialized(tmp_path: Path) -> None:
    """A process without Holdfast restores a materialized delta, bit by bit. Guards against a checkpoint that only its
    maker can read."""
    saved = Saved(tmp_path, new_store("posix", tmp_path), deltas=20)
    prefix = Materializing(saved.chain.store, saved.record).write(str(tmp_path / "out"), lambda _: None)
    assert tf.train.latest_checkpoint(str(tmp_path / "out")) == prefix
    np.savez(tmp_path / "values.npz", **saved.values)
    program = (
        "import sys, numpy as np, tensorflow as tf\n"
        "values = np.load(sys.argv[2])\n"
        "found = tf.train.Checkpoint(**{name: tf.Variable(tf.zeros_like(values[name])) for name in values})\n"
        "found.restore(sys.argv[1]).assert_consumed()\n"
        "for name in values: np.testing.assert_array_equal(getattr(found, name).numpy(), values[name])\n"
        "assert not any(name.startswith('holdfast') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, prefix, str(tmp_path / "values.npz")], check=True, timeout=120)
