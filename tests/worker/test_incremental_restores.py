"""Incremental saves by the manager, and what comes back of them: by the manager, by another world, by TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import holdfast
from holdfast_storage.checkpoint.materialize import Materializing
from holdfast_storage.errors import CheckpointDamaged
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store

pytestmark = pytest.mark.tensorflow

ROWS, DELTAS = 5000, 20


def variables() -> dict[str, Any]:
    """A table and the slot that Adagrad has for it, both by rows, and what is not."""
    return {
        "table": tf.Variable(tf.random.stateless_normal((ROWS, 64), [1, 2])),
        "slot": tf.Variable(tf.fill((ROWS, 64), 0.1)),
        "half": tf.Variable(tf.zeros((20_000, 32), tf.float16)),
        "dense": tf.Variable(tf.zeros((64, 10))),
        "step": tf.Variable(0, dtype=tf.int64),
    }


def train(state: dict[str, Any], random: np.random.Generator) -> None:
    """Touch a few rows, as a step of Adagrad does, and everything that is not by rows."""
    rows = tf.constant(np.unique(random.zipf(1.3, 200) % ROWS))
    change = tf.constant(random.normal(size=(len(rows), 64)), tf.float32)
    state["slot"].scatter_add(tf.IndexedSlices(change**2, rows))
    state["table"].scatter_sub(tf.IndexedSlices(change * tf.math.rsqrt(tf.gather(state["slot"], rows)), rows))
    state["half"].scatter_add(tf.IndexedSlices(tf.ones((len(rows), 32), tf.float16), rows))
    state["dense"].assign_add(tf.ones((64, 10)))
    state["step"].assign_add(1)


def values(state: dict[str, Any]) -> dict[str, bytes]:
    return {name: variable.numpy().tobytes() for name, variable in state.items()}


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, list[dict[str, bytes]]]:
    """A run of one full checkpoint and twenty deltas, and the states that were saved."""
    state, states = variables(), []
    random = np.random.default_rng(7)
    with holdfast.CheckpointManager(
        tf.train.Checkpoint(**state),
        tmp_path / "run",
        max_to_keep=None,
        incremental=holdfast.Incremental(full_every=DELTAS + 1),
    ) as manager:
        for _ in range(DELTAS + 1):
            train(state, random)
            states.append(values(state))
            manager.save(blocking=True)
    found = read_run(open_store(tmp_path / "run"))
    assert found is not None
    assert [bool(record.base) for record in found.checkpoints] == [False, *[True] * DELTAS]
    return tmp_path / "run", states


def restored(path: Path, step: int | str | None = None, run: Path | None = None) -> dict[str, bytes]:
    """The values that a fresh program has after its restore, in a run of its own if that is given."""
    state = variables()
    with holdfast.CheckpointManager(tf.train.Checkpoint(**state), run or path, max_to_keep=None) as manager:
        if step is None:
            assert manager.restore_or_initialize() is not None
        else:
            manager.restore(step).assert_consumed()
    return values(state)


def test_there_and_back(run: tuple[Path, list[dict[str, bytes]]], tmp_path: Path) -> None:
    """A full checkpoint and twenty deltas come back bit by bit: the newest, any other step, by path in another run; and
    materialized, by TensorFlow. Guards against rows that one delta of many has left out."""
    path, states = run
    assert restored(path) == states[-1]
    for step in (1, 2, 12):
        assert restored(path, step) == states[step - 1]
    store = open_store(path)
    found = read_run(store)
    assert found is not None
    assert restored(path, f"{path}/{found.checkpoints[3].prefix}", tmp_path / "warm") == states[3]
    for record in (found.checkpoints[0], found.checkpoints[7], found.checkpoints[-1]):
        prefix = Materializing(store, record).write(str(tmp_path / str(record.step)), lambda _: None)
        state = variables()
        tf.train.Checkpoint(**state).restore(prefix).assert_existing_objects_matched()
        assert values(state) == states[record.step - 1]


def test_a_damaged_link_takes_what_is_built_on_it_out(run: tuple[Path, list[dict[str, bytes]]]) -> None:
    """With damage in the middle of a chain, a restore gives the newest that needs none of it. Guards against a state
    that is put together from parts of several."""
    path, states = run
    store = open_store(path)
    found = read_run(store)
    assert found is not None
    (data,) = (path / found.checkpoints[5].folder).glob("*data*")
    sound = bytearray(data.read_bytes())
    sound[len(sound) // 2] ^= 1
    data.write_bytes(bytes(sound))
    assert restored(path) == states[4]
    with pytest.raises(CheckpointDamaged, match=found.checkpoints[5].folder):
        Materializing(store, found.checkpoints[-1]).write(str(path.parent / "out"), lambda _: None)
