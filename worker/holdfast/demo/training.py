"""The training program of the demo. Every worker of the cluster runs it, both before and after the kill.

It is a custom training loop over a Keras 3 model under MultiWorkerMirroredStrategy, on the UCI handwritten digits. The
checkpoint holds everything on which the next step depends: weights, optimizer, the statistics of batch normalisation,
the seeds of dropout, the generator of the augmentation noise and the position in the shuffled input. The last three
differ between workers. TF_CONFIG describes the cluster, HOLDFAST_COORDINATOR has the coordinator's address.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH = 32  # images for each worker and step
SEED = 20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m holdfast.demo.training", description=__doc__)
    parser.add_argument("--directory", required=True, help="run directory for the checkpoints")
    parser.add_argument("--results", required=True, type=Path, help="folder for losses and the final state")
    parser.add_argument("--steps", required=True, type=int)
    parser.add_argument("--save-every", required=True, type=int)
    arguments = parser.parse_args()
    train(arguments.directory, arguments.results, arguments.steps, arguments.save_every)


def train(directory: str, results: Path, steps: int, save_every: int) -> None:
    """Train up to `steps`, from the newest checkpoint if there is one. Write one line for each step to `results`."""
    import keras
    import tensorflow as tf

    import holdfast
    import holdfast.keras

    cluster = json.loads(os.environ["TF_CONFIG"])
    worker, workers = cluster["task"]["index"], len(cluster["cluster"]["worker"])

    # The same seeds, and the same order in every sum: otherwise two runs differ even if nobody is killed.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        model = build_model(keras)
    iterator = iter(shuffled_digits(tf, worker, workers))
    noise = tf.random.Generator.from_seed(SEED + worker)

    def replica_step(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            # Gradients are summed over the workers, so each worker takes its share of the mean.
            loss = tf.reduce_sum(model.loss(labels, logits)) / (BATCH * workers)
        model.optimizer.apply(tape.gradient(loss, model.trainable_variables))
        return loss

    @tf.function  # type: ignore[untyped-decorator]
    def train_step() -> Any:
        images, labels = next(iterator)
        images += noise.normal(tf.shape(images), stddev=0.1)
        return strategy.reduce("SUM", strategy.run(replica_step, (images, labels)), axis=None)

    state = holdfast.keras.training_state(model)
    state.noise = noise
    manager = holdfast.CheckpointManager(
        state,
        directory,
        max_to_keep=3,
        per_worker=tf.train.Checkpoint(iterator=iterator),
        save_timeout=60.0,
        join_timeout=120.0,
    )
    with manager, open(results / f"progress-{worker}.jsonl", "a", buffering=1) as progress:
        restored = manager.restore_or_initialize()
        step = int(model.optimizer.iterations.numpy())
        print(json.dumps({"restored": restored, "step": step, "time": time.time()}), file=progress)
        while step < steps:
            loss = float(train_step())
            step += 1
            print(json.dumps({"step": step, "loss": loss, "time": time.time()}), file=progress)
            if step % save_every == 0 or step == steps:
                manager.save(checkpoint_number=step, metrics={"loss": loss})
    dump_state(tf, results / f"final-{worker}.npz", model, noise, iterator)


def build_model(keras: Any) -> Any:
    """Build a small classifier with batch normalisation and dropout, which make a bit-equal resume hard."""
    layers: list[Any] = [keras.Input((64,))]
    for _ in range(2):
        layers += [
            keras.layers.Dense(512, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.5),
        ]
    model = keras.Sequential([*layers, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    model.compile(optimizer=keras.optimizers.Adam(2e-4), loss=loss)
    model.optimizer.build(model.trainable_variables)
    return model


def shuffled_digits(tf: Any, worker: int, workers: int) -> Any:
    """Return this worker's share of the digits, shuffled anew in every epoch, without end."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    digits = tf.data.Dataset.from_tensor_slices(((images / 16).astype("float32"), labels.astype("int64")))
    digits = digits.shard(workers, worker).shuffle(1000, seed=SEED + worker).repeat().batch(BATCH)
    # A prefetch depends on the clock, so the stored states of equal positions would differ.
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    return digits.with_options(options)


def dump_state(tf: Any, path: Path, model: Any, noise: Any, iterator: Any) -> None:
    """Write everything on which this worker's next step would depend, for the comparison: group/name -> array."""
    import numpy as np

    arrays = {f"weights/{v.path}": np.asarray(v) for v in model.trainable_variables}
    arrays |= {f"optimizer/{v.path}": np.asarray(v) for v in model.optimizer.variables}
    for variable in model.non_trainable_variables:
        group = "random" if "seed" in variable.path else "statistics"
        arrays[f"{group}/{variable.path}"] = np.asarray(variable)
    arrays["random/noise generator"] = noise.state.numpy()
    # A data iterator has no value to read; what TensorFlow stores of it stands for its state.
    with tempfile.TemporaryDirectory() as scratch:
        prefix = tf.train.Checkpoint(iterator=iterator).write(f"{scratch}/iterator")
        arrays["input/iterator state"] = np.frombuffer(Path(f"{prefix}.data-00000-of-00001").read_bytes(), np.uint8)
    images, labels = next(iterator)
    arrays |= {"input/next images": images.numpy(), "input/next labels": labels.numpy()}
    # Written under another name first: the supervisor takes a final state that exists for a whole one.
    unfinished = path.with_suffix(".unfinished.npz")
    np.savez(unfinished, **arrays)
    os.replace(unfinished, path)


if __name__ == "__main__":
    main()
