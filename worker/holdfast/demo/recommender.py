"""The program of the demo with parameter servers. Every task of the cluster runs it, before and after the kill.

A recommender learns which of 5,000 users like which of 2,000 items. Its embeddings, and the slots of the optimizer, lie
in parts on two servers; the chief schedules steps, and a worker does them. With one worker the order of all updates is
the same in every run, so two runs can be compared bit by bit. TF_CONFIG describes the cluster, HOLDFAST_COORDINATOR has
the coordinator's address.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

USERS, ITEMS, WIDTH = 5_000, 2_000, 128
BATCH = 256
SEED = 20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m holdfast.demo.recommender", description=__doc__)
    parser.add_argument("--directory", required=True, help="run directory for the checkpoints")
    parser.add_argument("--results", required=True, type=Path, help="folder for losses")
    parser.add_argument("--steps", required=True, type=int)
    parser.add_argument("--save-every", required=True, type=int)
    arguments = parser.parse_args()

    import tensorflow as tf

    import holdfast

    # The same order in every sum: otherwise two runs differ even if nobody is killed.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    os.environ["GRPC_FAIL_FAST"] = "use_caller"  # the loss of a server is an error at once
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if resolver.task_type == "chief":
        train(resolver, arguments.directory, arguments.results, arguments.steps, arguments.save_every)
    elif resolver.task_type == "ps":
        holdfast.serve_parameter_server()
    else:
        task = {"job_name": resolver.task_type, "task_index": resolver.task_id}
        tf.distribute.Server(resolver.cluster_spec(), protocol="grpc", **task).join()


def train(resolver: Any, directory: str, results: Path, steps: int, save_every: int) -> None:
    """Train up to `steps`, from the newest checkpoint if there is one. Write one line for each step to `results`."""
    import tensorflow as tf
    import tf_keras

    import holdfast

    partitioner = tf.distribute.experimental.partitioners.MinSizePartitioner(256 << 10, 2)
    strategy = tf.distribute.ParameterServerStrategy(resolver, partitioner)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    tf_keras.utils.set_random_seed(SEED)
    with strategy.scope():
        users, items = (tf_keras.layers.Embedding(count, WIDTH) for count in (USERS, ITEMS))
        tower = tf_keras.Sequential([tf_keras.layers.Dense(32, "relu"), tf_keras.layers.Dense(1)])
        for layer, width in ((users, 1), (items, 1), (tower, 3 * WIDTH)):
            layer.build((None, width))
        weights = [*users.trainable_weights, *items.trainable_weights, *tower.trainable_weights]
        optimizer = tf_keras.optimizers.Adagrad(0.1)
        optimizer.build(weights)

    def replica_step(number: Any) -> Any:
        user, item, liked = ratings(tf, number)
        with tf.GradientTape() as tape:
            one, other = users(user), items(item)
            guess = tower(tf.concat([one, other, one * other], 1))[:, 0]
            loss = tf.reduce_mean((guess - liked) ** 2)
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    @tf.function  # type: ignore[untyped-decorator]
    def train_step(number: Any) -> Any:
        return strategy.run(replica_step, (number,))

    state = tf.train.Checkpoint(users=users, items=items, tower=tower, optimizer=optimizer)
    manager = holdfast.CheckpointManager(state, directory, max_to_keep=3, save_timeout=60.0, join_timeout=120.0)
    with manager, open(results / "progress-0.jsonl", "a", buffering=1) as progress:
        restored = manager.restore_or_initialize()
        step = int(optimizer.iterations.numpy())
        print(json.dumps({"restored": restored, "step": step, "time": time.time()}), file=progress)
        while step < steps:
            loss = coordinator.schedule(train_step, (tf.constant(step),))
            coordinator.join()
            step += 1
            print(json.dumps({"step": step, "loss": float(loss.fetch()), "time": time.time()}), file=progress)
            if step % save_every == 0 or step == steps:
                manager.save(checkpoint_number=step, metrics={"loss": float(loss.fetch())})


def ratings(tf: Any, number: Any) -> tuple[Any, Any, Any]:
    """Make a batch of users, items, and whether the one liked the other. It follows from the number of the step."""
    seed = tf.stack([number, SEED])
    users = tf.random.stateless_uniform([BATCH], seed, 0, USERS, tf.int64)
    items = tf.cast(tf.random.stateless_uniform([BATCH], seed + 1) ** 2 * ITEMS, tf.int64)  # few are popular
    return users, items, tf.cast(users % 5 + items % 5 < 4, tf.float32)


if __name__ == "__main__":
    main()
