"""orbit's Controller, unmodified, with Holdfast's manager where it expects TensorFlow's.

pip install --no-deps tf-models-official    # for orbit
python examples/orbit_controller.py /tmp/run
"""

import argparse

import orbit
import tensorflow as tf
import tf_keras
from sklearn.datasets import load_digits

import holdfast


class Trainer(orbit.StandardTrainer):
    """Trains a small classifier of digits."""

    def __init__(self) -> None:
        images, labels = load_digits(return_X_y=True)
        data = tf.data.Dataset.from_tensor_slices((images.astype("float32") / 16, labels))
        super().__init__(data.shuffle(1000, seed=7).repeat().batch(32))
        tf_keras.utils.set_random_seed(7)
        self.model = tf_keras.Sequential(
            [tf_keras.Input((64,)), tf_keras.layers.Dense(128, "relu"), tf_keras.layers.Dense(10)]
        )
        self.optimizer = tf_keras.optimizers.Adam()
        self.optimizer.build(self.model.trainable_variables)
        self.step = self.optimizer.iterations
        self.loss = tf_keras.metrics.Mean()

    def train_loop_begin(self) -> None:
        self.loss.reset_states()

    def train_step(self, iterator: tf.data.Iterator) -> None:
        images, labels = next(iterator)
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, self.model(images))
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, self.model.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
        self.loss.update_state(loss)

    def train_loop_end(self) -> dict[str, tf.Tensor]:
        return {"loss": self.loss.result()}


def main(directory: str, steps: int) -> None:
    trainer = Trainer()
    checkpoint = tf.train.Checkpoint(model=trainer.model, optimizer=trainer.optimizer)
    with holdfast.CheckpointManager(
        checkpoint, directory, max_to_keep=3, step_counter=trainer.step, checkpoint_interval=20
    ) as manager:
        controller = orbit.Controller(
            trainer=trainer, global_step=trainer.step, steps_per_loop=10, checkpoint_manager=manager
        )
        controller.train(steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", help="run directory: a path or a URL")
    parser.add_argument("--steps", type=int, default=200)
    main(**vars(parser.parse_args()))
