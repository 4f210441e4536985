"""Counts how often each element of the input has trained the state that there is in the end."""

from __future__ import annotations

import os
import signal
from typing import Any

import tensorflow as tf

import holdfast

ELEMENTS = 48
BATCH = 2


def count(
    world: Any, *, directory: str, steps: int, save_every: int, killed: int | None = None, at: int = 0
) -> dict[str, Any]:
    """Train up to `steps`, from the newest checkpoint if there is one.

    killed: the worker that kills itself once it has done the step `at`.

    Returns the count of each element, which is part of the state, and the elements of each step of this start by
    replica of this worker.
    """
    strategy = world.strategy or tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    def dataset_fn(context: Any) -> Any:
        part = tf.data.Dataset.range(ELEMENTS).shard(context.num_input_pipelines, context.input_pipeline_id)
        return part.shuffle(10, seed=3).repeat().batch(BATCH).prefetch(2)

    with strategy.scope():
        counts = tf.Variable(tf.zeros(ELEMENTS, tf.int64))
        done = tf.Variable(0, dtype=tf.int64)
    iterator = holdfast.per_worker_iterator(strategy, dataset_fn)

    def replica(batch: Any) -> Any:
        seen = tf.reduce_sum(tf.one_hot(batch, ELEMENTS, dtype=tf.int64), 0)
        counts.assign_add(tf.distribute.get_replica_context().all_reduce("SUM", seen))
        return batch

    @tf.function
    def step(iterator: Any) -> Any:
        return strategy.run(replica, args=(next(iterator),))

    state, mine = tf.train.Checkpoint(counts=counts, done=done), tf.train.Checkpoint(iterator=iterator)
    seen = []
    with holdfast.CheckpointManager(state, directory, per_worker=mine, join_timeout=60.0) as manager:
        manager.restore_or_initialize()
        while done < steps:
            seen.append([batch.numpy().tolist() for batch in strategy.experimental_local_results(step(iterator))])
            done.assign_add(1)
            if done % save_every == 0:
                manager.save(done.numpy())
            if world.index == killed and done == at:
                manager.wait()
                os.kill(os.getpid(), signal.SIGKILL)
    return {"counts": counts.numpy().tolist(), "seen": seen}
