"""Input whose position is saved, in one process: where it goes on, and what it hands out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

import holdfast
from holdfast_storage.errors import InvalidRequest

pytestmark = pytest.mark.tensorflow

STRATEGIES: dict[str, Callable[[], Any]] = {
    "none": tf.distribute.get_strategy,
    "OneDeviceStrategy": lambda: tf.distribute.OneDeviceStrategy("CPU:0"),
    "MirroredStrategy": lambda: tf.distribute.MirroredStrategy(["CPU:0"]),
    "MultiWorkerMirroredStrategy": tf.distribute.MultiWorkerMirroredStrategy,
}


def pairs(context: Any) -> Any:
    """Batches of two elements, each of which has two parts."""
    numbers = tf.data.Dataset.range(24).shuffle(5, seed=1).repeat(2)
    return numbers.map(lambda number: (number, {"negative": -number})).batch(2).prefetch(2)


def numbers_in(strategy: Any, batch: Any) -> list[int]:
    (positive,) = strategy.experimental_local_results(batch[0])
    (negative,) = strategy.experimental_local_results(batch[1]["negative"])
    assert (positive == -negative).numpy().all()
    found: list[int] = positive.numpy().tolist()
    return found


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("inside", [False, True], ids=["eagerly", "in a tf.function"])
def test_it_goes_on_at_every_batch(name: str, inside: bool, tmp_path: Path) -> None:
    """From a save at any batch it goes on with the next one. Guards against elements in the buffers of shuffle and
    prefetch that are lost, or come twice."""
    strategy = STRATEGIES[name]()
    iterator = holdfast.per_worker_iterator(strategy, pairs)
    step = tf.function(lambda: strategy.run(lambda batch: batch, args=(next(iterator),)))
    following = (lambda: numbers_in(strategy, step())) if inside else (lambda: numbers_in(strategy, next(iterator)))
    mine = tf.train.Checkpoint(iterator=iterator)
    with holdfast.CheckpointManager(tf.train.Checkpoint(), tmp_path, max_to_keep=None, per_worker=mine) as manager:
        manager.restore_or_initialize()
        saved, given = [manager.save()], []
        for _ in range(24):
            given.append(following())
            saved.append(manager.save())
        assert sorted(number for batch in given for number in batch) == sorted([*range(24), *range(24)])
        for done in (0, 1, 11, 12, 13, 23):
            manager.restore(saved[done])
            assert [following() for _ in range(24 - done)] == given[done:]
        manager.restore(saved[7])
    again = holdfast.per_worker_iterator(strategy, pairs)
    mine = tf.train.Checkpoint(iterator=again)
    with holdfast.CheckpointManager(tf.train.Checkpoint(), tmp_path, per_worker=mine) as manager:
        manager.restore(saved[13])
        assert [numbers_in(strategy, batch) for batch in again] == given[13:]


def test_the_end_of_the_data() -> None:
    """It ends as other iterators do. Guards against a loop over it that ends the program."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    iterator = holdfast.per_worker_iterator(strategy, lambda context: tf.data.Dataset.range(3))
    assert len(list(iterator)) == 3
    assert list(iterator) == []
    with pytest.raises(tf.errors.OutOfRangeError):
        tf.function(lambda: strategy.run(tf.identity, args=(next(iterator),)))()


def test_a_loop_in_a_function() -> None:
    """It may be used in a loop inside of a `tf.function`. Guards against one batch that is used in every turn."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    iterator = holdfast.per_worker_iterator(strategy, lambda context: tf.data.Dataset.range(100))
    with strategy.scope():
        total = tf.Variable(0, dtype=tf.int64, aggregation=tf.VariableAggregation.SUM)

    @tf.function
    def ten() -> None:
        for _ in tf.range(10):
            strategy.run(total.assign_add, args=(next(iterator),))

    ten()
    assert total.numpy() == sum(range(10))


def test_each_worker_has_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The context says which part is this worker's. Guards against workers that all train with the same data."""
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}}))
    contexts = []

    def dataset_fn(context: Any) -> Any:
        contexts.append(context)
        return tf.data.Dataset.range(9).shard(context.num_input_pipelines, context.input_pipeline_id)

    iterator = holdfast.per_worker_iterator(tf.distribute.get_strategy(), dataset_fn)
    assert [int(each) for each in iterator] == [1, 4, 7]
    (context,) = contexts
    assert isinstance(context, tf.distribute.InputContext)
    assert (context.num_input_pipelines, context.input_pipeline_id, context.num_replicas_in_sync) == (3, 1, 1)


def test_what_is_no_dataset_is_refused() -> None:
    """`dataset_fn` must return a dataset. Guards against an iterator over something that cannot be saved."""
    with pytest.raises(InvalidRequest, match=r"dataset_fn must return a tf\.data\.Dataset, not \[1, 2\]"):
        holdfast.per_worker_iterator(tf.distribute.get_strategy(), lambda context: [1, 2])


def test_iterators_of_a_strategy_cannot_be_saved() -> None:
    """TensorFlow refuses to put an iterator of a strategy into a checkpoint. Guards against a module that
    is needed no more, and nobody notices."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    per_replica = tf.distribute.InputReplicationMode.PER_REPLICA
    for options in (
        None,
        tf.distribute.InputOptions(),
        tf.distribute.InputOptions(experimental_fetch_to_device=False),
        tf.distribute.InputOptions(experimental_fetch_to_device=False, experimental_replication_mode=per_replica),
    ):
        dataset = strategy.distribute_datasets_from_function(lambda context: tf.data.Dataset.range(3), options)
        with pytest.raises(ValueError, match="trackable"):
            tf.train.Checkpoint(iterator=iter(dataset))
