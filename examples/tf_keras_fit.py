"""`fit` of tf_keras under TensorFlow's own MultiWorkerMirroredStrategy. Killed, or preempted by SIGTERM, and started
again, it goes on at the next batch of the same epoch.

TF_CONFIG=... python examples/tf_keras_fit.py /mnt/run  # each of several workers, with the same directory
"""

import argparse

import tensorflow as tf
import tf_keras as keras
from sklearn.datasets import load_digits

import holdfast


def main(directory: str, epochs: int) -> None:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    keras.backend.experimental.enable_tf_random_generator()  # otherwise dropout's seeds are nowhere to be saved
    keras.utils.set_random_seed(7)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.layers.InputLayer((64,)),
                keras.layers.Dense(128, "relu"),
                keras.layers.Dropout(0.2),
                keras.layers.Dense(10),
            ]
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
    model.fit(data, epochs=epochs, callbacks=callbacks, verbose=2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", help="a path or a URL that all workers share, for two runs: best and backup")
    parser.add_argument("--epochs", type=int, default=5)
    main(**vars(parser.parse_args()))
