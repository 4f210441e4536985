"""The workers of a Slurm job. There is no TF_CONFIG: TensorFlow asks Slurm, and Holdfast asks the strategy.

#!/bin/bash
#SBATCH --nodes=4 --ntasks-per-node=1 --gpus-per-task=8
#SBATCH --requeue --open-mode=append
srun python examples/slurm.py /shared/run
"""

import argparse

import keras
import numpy as np
import tensorflow as tf

import holdfast


def main(directory: str, steps: int, port: int) -> None:
    # Slurm has given each task its own GPUs already.
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(port_base=port, auto_set_gpu=False)
    strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    keras.utils.set_random_seed(7)
    with strategy.scope():
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)

    def replica_step(features: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            error = model(features) - tf.reduce_sum(features, 1, keepdims=True)
            loss = tf.reduce_mean(error**2) / strategy.num_replicas_in_sync
        optimizer.apply(tape.gradient(loss, model.trainable_variables))
        return loss

    @tf.function
    def train_step(features: tf.Tensor) -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(replica_step, (features,)), axis=None)

    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    with holdfast.CheckpointManager(checkpoint, directory, max_to_keep=3) as manager:
        manager.restore_or_initialize()
        step = int(optimizer.iterations.numpy())
        print(f"{resolver.task_type}-{resolver.task_id} starts at step {step}", flush=True)
        while step < steps:
            # What a step trains on follows from its number, so there is no place in the input to keep.
            features = np.random.default_rng([step, resolver.task_id]).normal(size=(32, 8)).astype("float32")
            loss = float(train_step(features))
            step += 1
            print(f"step {step}: loss {loss:.6f}", flush=True)
            if step % 20 == 0:
                manager.save(checkpoint_number=step)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", help="run directory: a path that all nodes share, or a URL")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--port", type=int, default=8888, help="of the first task of each node")
    main(**vars(parser.parse_args()))
