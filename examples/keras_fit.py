"""Keras 3 `fit`, on one process or on several workers. Killed, or preempted by SIGTERM, and started again, it goes on
at the next batch of the same epoch.

python examples/keras_fit.py /tmp/run                # one process
TF_CONFIG=... python examples/keras_fit.py /mnt/run  # each of several workers, with the same directory
"""

import argparse
import os

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

import holdfast


def main(directory: str, epochs: int) -> None:
    several = "TF_CONFIG" in os.environ
    strategy = holdfast.keras.MultiWorkerMirroredStrategy() if several else tf.distribute.get_strategy()
    keras.utils.set_random_seed(7)
    with strategy.scope():
        model = keras.Sequential(
            [keras.Input((64,)), keras.layers.Dense(128, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(10)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])

    images, labels = load_digits(return_X_y=True)
    data = tf.data.Dataset.from_tensor_slices((images.astype("float32") / 16, labels))
    # With a seed, the epoch that was interrupted is shuffled as before.
    data = data.shuffle(len(labels), seed=7).batch(64, drop_remainder=True)

    callbacks = [
        keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=1),
        holdfast.keras.ModelCheckpoint(f"{directory}/best", monitor="loss", save_best_only=True),
        holdfast.keras.BackupAndRestore(f"{directory}/backup", save_freq=10, preemption=holdfast.Preemption()),
    ]
    model.fit(data, epochs=epochs, callbacks=callbacks, shuffle=False, verbose=2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", help="a path or a URL that all workers share, for two runs: best and backup")
    parser.add_argument("--epochs", type=int, default=5)
    main(**vars(parser.parse_args()))
