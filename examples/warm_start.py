"""A warm start: a model of six layers begins with those that another run has trained, and goes on as its own run.

python examples/warm_start.py /tmp/five /tmp/six
"""

import argparse

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

import holdfast


def build(layers: int) -> keras.Model:
    dense = [keras.layers.Dense(64, "relu") for _ in range(layers)]
    model = keras.Sequential([keras.Input((64,)), *dense, keras.layers.Dense(10, name="head")])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


def train(model: keras.Model, checkpoint: tf.train.Checkpoint, directory: str, **options: object) -> None:
    images, labels = load_digits(return_X_y=True)
    with holdfast.CheckpointManager(checkpoint, directory, max_to_keep=3, **options) as manager:
        restored = manager.restore_or_initialize()
        before = model.evaluate(images / 16, labels, verbose=0)[1]
        print(f"{directory}: starts {'at ' + restored if restored else 'anew'}, accuracy {before:.2f}", flush=True)
        for _ in range(5):
            model.fit(images / 16, labels, verbose=0)
            manager.save()
    print(f"{directory}: ends with accuracy {model.evaluate(images / 16, labels, verbose=0)[1]:.2f}", flush=True)


def main(five_layers: str, six_layers: str) -> None:
    keras.utils.set_random_seed(7)
    small = build(4)
    train(small, tf.train.Checkpoint(layers=small.layers, optimizer=small.optimizer), five_layers)

    large = build(5)

    def start_from_the_small_one() -> None:
        """Give the first four layers what they had. The fifth and the head keep their initial values."""
        first = tf.train.Checkpoint(layers=large.layers[:4])
        first.restore(tf.train.latest_checkpoint(five_layers)).expect_partial()

    # `init_fn` is called only if the run has no checkpoint yet: killed and started again, it goes on where it was.
    whole = tf.train.Checkpoint(layers=large.layers, optimizer=large.optimizer)
    train(large, whole, six_layers, init_fn=start_from_the_small_one)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("five_layers", help="run directory of the small model")
    parser.add_argument("six_layers", help="run directory of the large model")
    main(**vars(parser.parse_args()))
