"""Applying a staged checkpoint: TensorFlow's semantics, and each worker's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from holdfast.restoring import large_tensors as values
from holdfast.restoring.apply import apply
from holdfast.restoring.large_tensors import Values
from holdfast.restoring.staging import Staged, stage
from holdfast_storage.cluster import Task
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store import Store, open_store
from support.checkpoints import WORKERS, commit
from support.stores import KINDS, new_store
from support.two_cpus import DEVICES

pytestmark = pytest.mark.tensorflow

CHIEF, OTHER = WORKERS
V = "v/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return new_store(request.param, tmp_path)


@pytest.fixture(params=["all in files", "large in memory"], autouse=True)
def what_is_large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow reads some tensors from files, and gets the large ones from memory: here all or none are large."""
    monkeypatch.setattr(values, "LARGE", 1 << 40 if request.param == "all in files" else 1)


@pytest.fixture
def strategy() -> Any:
    return tf.distribute.MirroredStrategy(DEVICES)


def save(tmp_path: Path, **objects: Any) -> str:
    return str(tf.train.Checkpoint(**objects).save(str(tmp_path / "stock" / "ckpt")))


def staged(store: Store, record: CheckpointRecord, world: tuple[Task, ...] = WORKERS) -> Staged:
    return stage(store, record, task=OTHER, world=world, values=Values)


def numbers() -> Any:
    return iter(tf.data.Dataset.range(100).shuffle(100, seed=1))


def test_load_status_is_tensorflows(store: Store, tmp_path: Path) -> None:
    """The load status is TensorFlow's. Guards against leftover or missing values that are not reported to those who ask
    TensorFlow's way."""
    record = commit(store, save(tmp_path, v=tf.Variable(1.0), w=tf.Variable(2.0)))
    with staged(store, record) as found:
        whole = tf.train.Checkpoint(v=tf.Variable(0.0), w=tf.Variable(0.0))
        apply(whole, None, found).assert_consumed()
        assert (whole.v.numpy(), whole.w.numpy(), whole.save_counter.numpy()) == (1.0, 2.0, 1)
    with staged(store, record) as found:
        part = tf.train.Checkpoint(v=tf.Variable(0.0))
        status = apply(part, None, found).expect_partial()
        status.assert_existing_objects_matched()
        with pytest.raises(AssertionError, match="Unresolved object"):
            status.assert_consumed()


def test_staging_is_given_back_once_nothing_is_left_to_read(store: Store, tmp_path: Path) -> None:
    """Staging is released once nothing is left to read. Guards against a removed checkpoint that fills the disk for as
    long as the training goes on."""
    record = commit(store, save(tmp_path, v=tf.Variable(1.0), w=tf.Variable(2.0)))
    with staged(store, record) as found:
        apply(tf.train.Checkpoint(v=tf.Variable(0.0)), None, found)
        assert Path(found.prefix).parent.exists()
    with staged(store, record) as found:
        apply(tf.train.Checkpoint(v=tf.Variable(0.0), w=tf.Variable(0.0)), None, found)
        assert not Path(found.prefix).parent.exists()


def test_per_worker_objects_go_on(store: Store, tmp_path: Path) -> None:
    """Each worker's `per_worker` objects go on where they were. Guards against workers that get the chief's input
    position, or none, and see examples twice."""
    iterator, generator = numbers(), tf.random.Generator.from_seed(3)
    for _ in range(10):
        next(iterator)
        generator.normal([])
    mine = tf.train.Checkpoint(iterator=iterator, generator=generator)
    chiefs = tf.train.Checkpoint(iterator=numbers(), generator=tf.random.Generator.from_seed(4))
    record = commit(store, save(tmp_path, v=tf.Variable(1.0)), per_worker={CHIEF: chiefs, OTHER: mine})
    expected = [next(iterator).numpy() for _ in range(5)], generator.normal([4]).numpy()
    again = tf.train.Checkpoint(iterator=numbers(), generator=tf.random.Generator.from_seed(9))
    with staged(store, record) as found:
        apply(tf.train.Checkpoint(v=tf.Variable(0.0)), again, found).assert_consumed()
        assert [next(again.iterator).numpy() for _ in range(5)] == expected[0]
        np.testing.assert_array_equal(again.generator.normal([4]), expected[1])


def test_per_worker_of_another_world(store: Store, tmp_path: Path) -> None:
    """`per_worker` objects of another world are an error. Guards against more workers that go on silently with input
    positions that are nobody's."""
    record = commit(
        store,
        save(tmp_path, v=tf.Variable(1.0)),
        per_worker=dict.fromkeys(WORKERS, tf.train.Checkpoint(p=tf.Variable(7))),
    )
    checkpoint, per_worker = tf.train.Checkpoint(v=tf.Variable(0.0)), tf.train.Checkpoint(p=tf.Variable(0))
    with staged(store, record, (*WORKERS, Task("worker", 2))) as found:
        with pytest.raises(InvalidRequest, match="another set of workers"):
            apply(checkpoint, per_worker, found)
        assert checkpoint.v.numpy() == 0.0, "nothing may change"
        apply(checkpoint, None, found).assert_consumed()


@pytest.mark.parametrize("by_tensorflow", [False, True])
def test_checkpoint_without_per_worker(store: Store, tmp_path: Path, by_tensorflow: bool) -> None:
    """A checkpoint without `per_worker` objects is an error. Guards against iterators that silently start from the
    beginning."""
    prefix = save(tmp_path, v=tf.Variable(1.0))
    if by_tensorflow:
        store, record = open_store(tmp_path / "stock"), CheckpointRecord("ckpt-1", 1, 1.0, stock=True)
    else:
        record = commit(store, prefix, own={OTHER: {f"{V}/.OWN": 5.0}})
    per_worker = tf.train.Checkpoint(p=tf.Variable(0))
    with (
        staged(store, record) as found,
        pytest.raises(InvalidRequest, match="TensorFlow wrote it" if by_tensorflow else "without per_worker"),
    ):
        apply(tf.train.Checkpoint(v=tf.Variable(0.0)), per_worker, found)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("aggregation", ["SUM", "MEAN"])
def test_replicas_get_their_own_values(
    store: Store, tmp_path: Path, strategy: Any, aggregation: str, when: str
) -> None:
    """Each local replica gets its own value. Guards against TensorFlow's equal parts of an ON_READ variable's one saved
    value."""

    def create() -> Any:
        with strategy.scope():
            return tf.Variable(
                [0.0, 0.0],
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation[aggregation],
            )

    components = [np.float32([0.1, 1e8]), np.float32([3.0, 7.0])]
    record = commit(
        store,
        save(tmp_path, v=tf.Variable([1.0, 2.0])),
        own={OTHER: {f"{V}/.REPLICA/{i}": value for i, value in enumerate(components)}},
    )
    with staged(store, record) as found:
        checkpoint = tf.train.Checkpoint()
        if when == "before":
            checkpoint.v = create()
        status = apply(checkpoint, None, found)
        if when == "after":
            checkpoint.v = create()
        status.assert_consumed()
        for component, value in zip(strategy.experimental_local_results(checkpoint.v), components, strict=True):
            np.testing.assert_array_equal(component, value)


def test_replicas_of_a_keras_variable(store: Store, tmp_path: Path, strategy: Any) -> None:
    """Replicas of a Keras 3 variable get their own values. Guards against batch normalisation statistics that are lost
    because Keras 3's variables are no tf.Variables."""
    import keras

    with strategy.scope():
        layer = keras.layers.BatchNormalization()
        layer.build((None, 2))
    stock = save(tmp_path, layer=layer)
    key = "layer/moving_mean/.ATTRIBUTES/VARIABLE_VALUE"
    own = {f"{key}/.REPLICA/{i}": np.float32([i + 1, i + 2]) for i in range(2)}
    record = commit(store, stock, own={OTHER: own})
    with staged(store, record) as found:
        apply(tf.train.Checkpoint(layer=layer), None, found).assert_consumed()
    means = [mean.numpy().tolist() for mean in strategy.experimental_local_results(layer.moving_mean.value)]
    assert means == [[1.0, 2.0], [2.0, 3.0]]


def test_replicas_of_another_machine(store: Store, tmp_path: Path) -> None:
    """With another number of replicas TensorFlow's value stays. Guards against a worker with one device instead of two
    that fails, or takes the first replica's value."""
    own = {f"{V}/.REPLICA/{i}": float(i + 5) for i in range(2)}
    record = commit(store, save(tmp_path, v=tf.Variable(1.0)), own={OTHER: own})
    checkpoint = tf.train.Checkpoint(v=tf.Variable(0.0))
    with staged(store, record) as found:
        apply(checkpoint, None, found).assert_consumed()
    assert checkpoint.v.numpy() == 1.0
