"""Evaluates each checkpoint of a run while another job trains it. What it reads is not removed meanwhile.

python examples/custom_loop.py /tmp/run &
python examples/evaluator.py /tmp/run
"""

import argparse

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

import holdfast


def main(directory: str, timeout: float) -> None:
    images, labels = load_digits(return_X_y=True)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(10)])
    step = tf.Variable(0, dtype=tf.int64)
    for prefix in holdfast.checkpoints_iterator(directory, timeout=timeout):
        # Of what the training job saves, an evaluator needs a part.
        tf.train.Checkpoint(model=model, step=step).restore(prefix).expect_partial()
        right = tf.argmax(model(images / 16), axis=1) == labels
        print(f"step {step.numpy()}: accuracy {tf.reduce_mean(tf.cast(right, tf.float32)):.3f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", help="run directory, which need not exist yet")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds without a new checkpoint, to end after")
    main(**vars(parser.parse_args()))
