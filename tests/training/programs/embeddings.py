"""Training of an embedding of which each step touches few rows, saved incrementally."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from values import digests

import holdfast
from holdfast.saving import save as product
from training import dying

ROWS, BATCH, SEED = 20_000, 64, 7


def train(
    world: Any, *, directory: str, steps: int, save_every: int, full_every: int, killed: int | None = None, at: int = 0
) -> dict[str, Any]:
    """Train up to `steps`, from the newest checkpoint if there is one.

    killed: the worker that kills itself while it writes its part of the save at step `at`.
    """
    keras.utils.set_random_seed(SEED)
    with world.scope():
        table = keras.layers.Embedding(ROWS, 16)
        table.build()
        optimizer = keras.optimizers.Adagrad(0.1)
        optimizer.build(table.trainable_variables)

    @tf.function
    def step(ids: Any) -> None:
        def replica(ids: Any) -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((table(ids) - 1.0) ** 2)
            optimizer.apply(world.sum(tape.gradient(loss, table.trainable_variables)), table.trainable_variables)

        world.run(replica, ids)

    manager = holdfast.CheckpointManager(
        tf.train.Checkpoint(table=table, optimizer=optimizer),
        directory,
        max_to_keep=None,
        incremental=holdfast.Incremental(full_every=full_every),
        save_timeout=60.0,
        join_timeout=60.0,
    )
    with manager:
        restored = manager.restore_or_initialize()
        first = int(optimizer.iterations.numpy())
        for done in range(first + 1, steps + 1):
            step(tf.random.stateless_uniform([BATCH], [world.index, done], 0, ROWS, tf.int32))
            if done % save_every == 0:
                if killed == world.index and done == at:
                    manager.wait()  # the one before may be being written still
                    product.write_objects = dying(product.write_objects)
                manager.save(checkpoint_number=done)
    variables = [*table.variables, *optimizer.variables]
    return {"restored": restored, "first": first, "state": digests({str(i): v for i, v in enumerate(variables)})}
