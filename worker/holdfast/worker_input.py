"""The input of one worker, whose position is saved.

What `Strategy.distribute_datasets_from_function` returns hands batches to the replicas of a worker, too. But a
`tf.train.Checkpoint` does not take its iterators, whatever the `InputOptions` are, so a restarted worker would begin at
its first batch. This one is used in the same way, and has a plain `tf.data` iterator inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from holdfast.session.this_task import find_this_task
from holdfast_storage.errors import InvalidRequest


class PerWorkerIterator(tf.Module):  # type: ignore[misc]
    """An iterator whose elements are for `strategy.run`. A checkpoint that holds it saves its position."""

    def __init__(self, strategy: Any, dataset: Any) -> None:
        super().__init__()
        self._strategy = strategy
        self.iterator = iter(dataset)

    def __iter__(self) -> PerWorkerIterator:
        return self

    def __next__(self) -> Any:
        """Return the next batches, one for each replica of this worker. May be called inside a `tf.function`.

        At the end of the data raises StopIteration, or inside a `tf.function`, as TensorFlow's iterators do,
        `tf.errors.OutOfRangeError`.
        """
        try:
            return self._strategy.experimental_distribute_values_from_function(lambda _: self.iterator.get_next())
        except tf.errors.OutOfRangeError:
            raise StopIteration from None


def per_worker_iterator(strategy: Any, dataset_fn: Callable[[Any], Any]) -> PerWorkerIterator:
    """Return an iterator over this worker's part of the input, to be saved as `per_worker` of a `CheckpointManager`.

        iterator = holdfast.per_worker_iterator(strategy, lambda context: (
            tf.data.Dataset.range(1000).shard(context.num_input_pipelines, context.input_pipeline_id).repeat()
            .batch(context.get_per_replica_batch_size(64))))
        mine = tf.train.Checkpoint(iterator=iterator)
        ...
        strategy.run(train_step, args=(next(iterator),))

    Args:
        strategy: a `tf.distribute.Strategy`.
        dataset_fn: as for `Strategy.distribute_datasets_from_function`: it takes a `tf.distribute.InputContext` and
            returns a `tf.data.Dataset`, each element of which is a batch of one replica.

    If a worker has several replicas, batches that are left when not all of them can have one are not given out. No
    batch is copied to a device ahead of its use; `dataset.prefetch` prepares them on the host.

    Raises InvalidRequest if `dataset_fn` returns something else, or if it is not clear which task of which cluster this
    is, as `CheckpointManager` does.
    """
    here = find_this_task(strategy.cluster_resolver)
    context = tf.distribute.InputContext(
        num_input_pipelines=len(here.tasks),
        input_pipeline_id=here.tasks.index(here.task),
        num_replicas_in_sync=strategy.num_replicas_in_sync,
    )
    dataset = dataset_fn(context)
    if not isinstance(dataset, tf.data.Dataset):
        raise InvalidRequest(f"dataset_fn must return a tf.data.Dataset, not {dataset!r}", object="dataset_fn")
    return PerWorkerIterator(strategy, dataset)
