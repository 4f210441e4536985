"""Train a small model with all workers of a world, saving as it goes: what the image runs until you bring your own.

Three things here let a cluster manager restart it at any time, and a program of your own wants the same three:
a run that has ended is recognised before a world is formed, because the others may have left already; the state comes
from `restore_or_initialize`; and an exception of TensorFlow's, which is how a lost worker shows, ends the process.
"""

import argparse
import os

import tensorflow as tf

import holdfast


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("directory", help="the run directory, the same on all workers")
    options.add_argument("--steps", type=int, default=20_000)
    options.add_argument("--save-every", type=int, default=500, metavar="STEPS")
    return options


def main(directory: str, steps: int, save_every: int) -> None:
    with holdfast.CheckpointManager(tf.train.Checkpoint(), directory) as run:  # which joins no world, only to look
        if last_step(run.latest_checkpoint) >= steps:
            print(f"{directory} has ended at step {steps}")
            return

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = tf.keras.Sequential(
            [tf.keras.Input((64,)), tf.keras.layers.Dense(256, "relu"), tf.keras.layers.Dense(1)]
        )
        optimizer = tf.keras.optimizers.Adam(1e-3)
        optimizer.build(model.trainable_variables)
        step = tf.Variable(0, dtype=tf.int64, trainable=False)
    truth = tf.random.stateless_normal((64, 1), seed=(0, 0))

    def replica_step() -> tf.Tensor:
        # Each replica draws its own batch from the step's number, so that a resumed run sees what this one would have.
        replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int64)
        inputs = tf.random.stateless_normal((64, 64), seed=tf.stack([step.read_value(), replica]))
        with tf.GradientTape() as tape:
            error = model(inputs, training=True) - tf.sin(inputs @ truth)
            loss = tf.reduce_mean(tf.square(error)) / strategy.num_replicas_in_sync
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )
        return loss

    @tf.function
    def train_step() -> tf.Tensor:
        loss = strategy.reduce("SUM", strategy.run(replica_step), axis=None)
        step.assign_add(1)
        return loss

    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, step=step)
    with holdfast.CheckpointManager(checkpoint, directory, max_to_keep=3) as manager:
        print("restored", manager.restore_or_initialize())
        while (done := int(step.numpy())) < steps:
            loss = train_step()
            if (done + 1) % save_every == 0 or done + 1 == steps:
                print(f"step {done + 1}: loss {float(loss):.4f}, saving to {manager.save(checkpoint_number=done + 1)}")


def last_step(prefix: str | None) -> int:
    """The step of a checkpoint's path, `.../ckpt-1000`; 0 where there is none."""
    return int(os.path.basename(prefix).rpartition("-")[2]) if prefix else 0


if __name__ == "__main__":
    main(**vars(parser().parse_args()))
