"""A custom training loop, on one process or on several workers. Killed and started again, it goes on where it was.

python examples/custom_loop.py /tmp/run             # one process
TF_CONFIG=... python examples/custom_loop.py /mnt/run   # each of several workers, with the same directory
"""

import argparse
import os

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

import holdfast

BATCH = 32  # images for each replica and step


def digits(context: tf.distribute.InputContext) -> tf.data.Dataset:
    images, labels = load_digits(return_X_y=True)
    data = tf.data.Dataset.from_tensor_slices((images.astype("float32") / 16, labels))
    data = data.shard(context.num_input_pipelines, context.input_pipeline_id)
    return data.shuffle(1000, seed=context.input_pipeline_id).repeat().batch(BATCH)


def main(directory: str, steps: int) -> None:
    several = "TF_CONFIG" in os.environ
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if several else tf.distribute.get_strategy()

    keras.utils.set_random_seed(7)
    with strategy.scope():
        model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(10)])
        optimizer = keras.optimizers.Adam()
        optimizer.build(model.trainable_variables)
        step = tf.Variable(0, dtype=tf.int64, name="step")
    batches = holdfast.per_worker_iterator(strategy, digits)

    def replica_step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            losses = keras.losses.sparse_categorical_crossentropy(labels, model(images), from_logits=True)
            # The gradients are summed over the replicas.
            loss = tf.reduce_sum(losses) / (BATCH * strategy.num_replicas_in_sync)
        optimizer.apply(tape.gradient(loss, model.trainable_variables))
        return loss

    @tf.function
    def train_step() -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(replica_step, next(batches)), axis=None)

    manager = holdfast.CheckpointManager(
        tf.train.Checkpoint(model=model, optimizer=optimizer, step=step),
        directory,
        max_to_keep=3,
        per_worker=tf.train.Checkpoint(batches=batches),  # each worker's place in its own input
    )
    with manager:
        manager.restore_or_initialize()
        print(f"starts at step {step.numpy()}", flush=True)
        while step.numpy() < steps:
            loss = float(train_step())
            step.assign_add(1)
            print(f"step {step.numpy()}: loss {loss:.6f}", flush=True)
            if step.numpy() % 20 == 0:
                manager.save(checkpoint_number=step, metrics={"loss": loss})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", help="run directory: a path or a URL")
    parser.add_argument("--steps", type=int, default=200)
    main(**vars(parser.parse_args()))
