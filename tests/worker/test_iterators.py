"""Input pipelines whose position TensorFlow cannot save are found before the first step, by name and with a remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

import holdfast
from holdfast_storage.errors import InvalidRequest, SaveFailed

pytestmark = pytest.mark.tensorflow


def flipped() -> Any:
    return tf.data.Dataset.range(10).map(lambda x: tf.image.random_flip_left_right(tf.fill([2, 2, 1], x)))


def by_python() -> Any:
    return tf.data.Dataset.range(10).map(lambda x: tf.py_function(lambda y: y, [x], tf.int64))


def generated() -> Any:
    return tf.data.Dataset.from_generator(lambda: iter(range(10)), output_types=tf.int64)


def ignoring(dataset: Any) -> Any:
    options = tf.data.Options()
    options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
    return dataset.with_options(options)


def make(directory: Path, dataset: Any) -> Any:
    mine = tf.train.Checkpoint(inputs={"train": iter(dataset)})
    return holdfast.CheckpointManager(tf.train.Checkpoint(v=tf.Variable(1.0)), directory, per_worker=mine)


@pytest.mark.parametrize("call", ["restore_or_initialize", "restore", "save"])
@pytest.mark.parametrize("pipeline", [flipped, by_python, generated])
def test_it_is_refused_by_name_before_the_first_step(pipeline: Callable[[], Any], call: str, tmp_path: Path) -> None:
    """An iterator that cannot be saved is refused by name before the first step. Guards against every save failing with
    forty lines that do not say what to do."""
    with make(tmp_path / "run", pipeline()) as manager:
        with pytest.raises(InvalidRequest, match=r"^per_worker\.inputs/train cannot be saved.*stateless_random"):
            getattr(manager, call)()
        assert manager.checkpoint.save_counter.numpy() == 0
        assert manager.checkpoints == []


@pytest.mark.parametrize("pipeline", [flipped, by_python])
def test_the_remedy_is_one(pipeline: Callable[[], Any], tmp_path: Path) -> None:
    """The named remedy works. Guards against an error that recommends an option that does not help."""
    with make(tmp_path / "run", ignoring(pipeline())) as manager:
        manager.restore_or_initialize()
        for _ in range(4):
            next(manager._per_worker.inputs["train"])
        manager.save(blocking=True)
    with make(tmp_path / "run", ignoring(pipeline())) as manager:
        manager.restore_or_initialize()
        assert tf.reduce_max(next(manager._per_worker.inputs["train"])).numpy() == 4


def test_a_generator_that_ignores_it(tmp_path: Path) -> None:
    """A generator's iterator is named when TensorFlow finds out. Guards against a failing save that does not name it,
    since TensorFlow notices only after the first element."""
    with make(tmp_path / "run", ignoring(generated())) as manager:
        manager.restore_or_initialize()
        next(manager._per_worker.inputs["train"])
        with pytest.raises(SaveFailed, match=r"inputs/train cannot be saved.*does not support.*leave the iterator out"):
            manager.save(blocking=True)


def test_in_the_main_checkpoint(tmp_path: Path) -> None:
    """An iterator in the main checkpoint is named, too. Guards against a failing save that does not name it."""
    checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0), data=iter(flipped()))
    manager = holdfast.CheckpointManager(checkpoint, tmp_path / "run")
    with manager, pytest.raises(SaveFailed, match=r"data cannot be saved: it is an input iterator"):
        manager.save(blocking=True)


def test_a_reader_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader's iterators are not checked. Guards against refusing an evaluator for what it never does."""
    with holdfast.CheckpointManager(tf.train.Checkpoint(v=tf.Variable(1.0)), tmp_path / "run") as manager:
        manager.save(blocking=True)
    config = {"cluster": {"worker": ["a:1"]}, "task": {"type": "evaluator", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    evaluator = make(tmp_path / "run", flipped())
    with evaluator, pytest.raises(InvalidRequest, match="the per_worker state cannot be restored"):
        evaluator.restore_or_initialize()
