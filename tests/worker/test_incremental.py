"""Incremental saves of a program of one process, with TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import holdfast
from holdfast.saving.capture import capture
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store
from support.deltas import merged

pytestmark = pytest.mark.tensorflow

ROWS = 20_000


class Recommender:
    """An embedding and its slots, of which a step touches few rows."""

    def __init__(self) -> None:
        self.table = keras.layers.Embedding(ROWS, 16)
        self.table.build()
        self.half = tf.Variable(tf.zeros([ROWS, 32], tf.bfloat16))
        self.optimizer = keras.optimizers.Adagrad(0.1)
        self.optimizer.build(self.table.trainable_variables)
        self.checkpoint = tf.train.Checkpoint(table=self.table, half=self.half, optimizer=self.optimizer)

    def step(self, *ids: int) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((self.table(tf.constant(ids)) - 1.0) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.table.trainable_variables), self.table.trainable_variables)
        self.half.scatter_nd_update([[ids[0]]], tf.fill([1, 32], tf.cast(ids[0], tf.bfloat16)))

    def values(self) -> list[bytes]:
        return [v.numpy().tobytes() for v in (*self.table.variables, self.half, *self.optimizer.variables)]


def manager_of(model: Recommender, directory: Path, **arguments: Any) -> Any:
    policy = holdfast.Incremental(full_every=3)
    return holdfast.CheckpointManager(model.checkpoint, directory, incremental=policy, blocking=True, **arguments)


def test_rows_of_variables_and_slots_come_back(tmp_path: Path) -> None:
    """Each save restores to what it was made of, bit by bit, and all but the full ones are small. Guards against slots
    that are saved whole, and tables that are restored as they were at the last full save."""
    model, saved, sizes = Recommender(), [], []
    store = open_store(str(tmp_path / "run"))
    with manager_of(model, tmp_path / "run", max_to_keep=None) as manager:
        before = None
        for number in range(5):
            model.step(number, 7, ROWS - 1)
            manager.save(checkpoint_number=number)
            saved.append(model.values())
            run = read_run(store)
            assert run is not None
            record = run.checkpoints[-1]
            files = (tmp_path / "run" / record.folder).iterdir()
            sizes.append((bool(record.base), sum(each.stat().st_size for each in files) < 20_000))
            now = capture(model.checkpoint)
            if record.base and before is not None:
                assert merged(store, record.prefix, before) == {t.key: bytes(t.data) for t in now.tensors}
            before = now
    assert sizes == [(delta, delta) for delta in (False, True, True, False, True)]
    for number, values in enumerate(saved):
        other = Recommender()
        with manager_of(other, tmp_path / "run", max_to_keep=None) as manager:
            manager.restore(number)
        assert other.values() == values


def test_after_a_restore_all_is_saved(tmp_path: Path) -> None:
    """The save after a restore is full. Guards against a delta between what was saved last and what was restored,
    which the digests do not know."""
    model = Recommender()
    with manager_of(model, tmp_path / "run") as manager:
        for number in range(2):
            model.step(number)
            manager.save()
        wanted = model.values()
        model.step(11)
        manager.restore()
        assert model.values() == wanted
        manager.save()
        run = read_run(open_store(str(tmp_path / "run")))
        assert run is not None
        assert [bool(record.base) for record in run.checkpoints] == [False, True, False]


def test_a_snapshot_that_changes_nothing_is_a_delta_of_nothing(tmp_path: Path) -> None:
    """A save without a step in between has no rows at all, and restores. Guards against bundles of empty tensors that
    cannot be read."""
    model = Recommender()
    with manager_of(model, tmp_path / "run") as manager:
        manager.save()
        manager.save()
        wanted = model.values()
        model.table.embeddings.assign(np.zeros([ROWS, 16]))
        assert manager.restore_or_initialize() is not None
        assert model.values() == wanted


def test_the_argument_is_a_policy(tmp_path: Path) -> None:
    """Anything but a policy is refused by name. Guards against `incremental=True`, which would mean nothing."""
    with pytest.raises(InvalidRequest, match=r"incremental is True: it must be a holdfast.Incremental"):
        holdfast.CheckpointManager(tf.train.Checkpoint(), tmp_path, incremental=True)  # type: ignore[arg-type]
