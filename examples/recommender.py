"""A recommender whose embeddings lie on parameter servers. Killed and started again, it goes on where it was.

python examples/recommender.py /tmp/run                 # starts a cluster on this machine: chief, worker, two servers
TF_CONFIG=... python examples/recommender.py /mnt/run   # each task of a cluster, with the same directory
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import tensorflow as tf
import tf_keras

import holdfast

USERS, ITEMS, WIDTH, BATCH = 4_000, 1_000, 32, 256
SAVE_EVERY = 50


class Recommender(tf_keras.Model):
    """Rates items for users: an embedding of each, and a small tower."""

    def __init__(self) -> None:
        super().__init__()
        self.users = tf_keras.layers.Embedding(USERS, WIDTH)
        self.items = tf_keras.layers.Embedding(ITEMS, WIDTH)
        self.tower = tf_keras.Sequential([tf_keras.layers.Dense(32, "relu"), tf_keras.layers.Dense(1)])

    def call(self, pairs: tf.Tensor) -> tf.Tensor:
        users, items = self.users(pairs[:, 0]), self.items(pairs[:, 1])
        return self.tower(tf.concat([users, items, users * items], 1))[:, 0]


def ratings(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Pairs of users and items, and whether the one liked the other: if their kinds, which nobody knows, go together.

    They follow from the number of the step, so there is no place in them to keep. Few items are popular.
    """
    seed = tf.stack([step, 0])
    users = tf.random.stateless_uniform([BATCH], seed, 0, USERS, tf.int64)
    items = tf.cast(tf.random.stateless_uniform([BATCH], seed + 1) ** 2 * ITEMS, tf.int64)
    return tf.stack([users, items], 1), tf.cast(users % 5 + items % 5 < 4, tf.float32)


def train(directory: str, steps: int) -> None:
    """Be the chief. The others do what it asks for."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    servers = len(resolver.cluster_spec().as_dict()["ps"])
    partitioner = tf.distribute.experimental.partitioners.MinSizePartitioner(64 << 10, servers)
    strategy = tf.distribute.ParameterServerStrategy(resolver, partitioner)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)

    tf_keras.utils.set_random_seed(7)
    with strategy.scope():
        model = Recommender()
        model.build((None, 2))
        optimizer = tf_keras.optimizers.Adagrad(0.1)
        optimizer.build(model.trainable_variables)  # before the restore: slots that are made later start empty

    def replica_step(step: tf.Tensor) -> tf.Tensor:
        pairs, rated = ratings(step)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(pairs) - rated) ** 2)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    @tf.function
    def train_step(step: tf.Tensor) -> tf.Tensor:
        return strategy.run(replica_step, (step,))

    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    with holdfast.CheckpointManager(checkpoint, directory, max_to_keep=3) as manager:
        manager.restore_or_initialize()
        done = int(optimizer.iterations.numpy())
        print(f"starts at step {done}", flush=True)
        while done < steps:
            scheduled = range(done, min(done + SAVE_EVERY, steps))
            losses = [coordinator.schedule(train_step, (tf.constant(step),)) for step in scheduled]
            coordinator.join()  # a save is of one step if nobody trains while it looks
            done = scheduled.stop
            loss = float(np.mean([each.fetch() for each in losses]))
            print(f"step {done}: loss {loss:.6f}", flush=True)
            manager.save(checkpoint_number=done, metrics={"loss": loss})


def work() -> None:
    """Be a worker: it holds nothing, so Holdfast has nothing to do there."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    task = {"job_name": resolver.task_type, "task_index": resolver.task_id}
    tf.distribute.Server(resolver.cluster_spec(), protocol="grpc", **task).join()


def launch() -> list[subprocess.Popen]:
    """Start the other tasks of a cluster on this machine, and make this process its chief."""
    tasks = [("chief", 0), ("worker", 0), ("ps", 0), ("ps", 1)]
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in tasks]
    cluster: dict[str, list[str]] = {}
    for (job, _), each in zip(tasks, sockets, strict=True):
        cluster.setdefault(job, []).append(f"127.0.0.1:{each.getsockname()[1]}")
        each.close()
    started = []
    for job, index in reversed(tasks):
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": job, "index": index}})
        if job != "chief":
            # They end with this process, however that ends.
            command = ["setpriv", "--pdeathsig", "KILL", sys.executable, *sys.argv]
            started.append(subprocess.Popen(command))
            print(f"{job}-{index} is process {started[-1].pid}", flush=True)
    return started


def main(directory: str, steps: int) -> None:
    os.environ.setdefault("GRPC_FAIL_FAST", "use_caller")  # so that the loss of a server is an error at once
    others = [] if "TF_CONFIG" in os.environ else launch()
    role = json.loads(os.environ["TF_CONFIG"])["task"]["type"]
    try:
        {"chief": lambda: train(directory, steps), "worker": work, "ps": holdfast.serve_parameter_server}[role]()
    finally:
        for each in others:
            each.send_signal(signal.SIGKILL)  # TensorFlow's servers take no notice of others
            each.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", help="run directory: a path that all tasks share, or a URL")
    parser.add_argument("--steps", type=int, default=500)
    main(**vars(parser.parse_args()))
