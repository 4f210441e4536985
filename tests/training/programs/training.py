"""Training with everything that makes a bit-equal resume hard, and ways of dying in the middle of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from values import digests

import holdfast
import holdfast.keras
from holdfast.saving import save as product

BATCH = 8
FEATURES = 16


class Training:
    """A model with batch normalisation and dropout, each worker's shuffled input and noise, and the manager."""

    def __init__(self, world: Any, directory: str, *, per_worker: bool = True, **options: Any) -> None:
        self.world = world
        keras.utils.set_random_seed(3)
        with world.scope():
            self.model = keras.Sequential(
                [
                    keras.Input((FEATURES,)),
                    keras.layers.Dense(64),
                    keras.layers.BatchNormalization(),
                    keras.layers.ReLU(),
                    keras.layers.Dropout(0.4),
                    keras.layers.Dense(1),
                ]
            )
            self.optimizer = keras.optimizers.Adam(0.01)
            self.optimizer.build(self.model.trainable_variables)
        numbers = tf.data.Dataset.range(1000).shuffle(100, seed=world.index).repeat().batch(BATCH)
        self.input = iter(numbers)
        self.noise = tf.random.Generator.from_seed(5 + world.index)
        state = holdfast.keras.training_state(self.model)
        state.optimizer = self.optimizer
        own = tf.train.Checkpoint(input=self.input, noise=self.noise) if per_worker else None
        options = {"save_timeout": 60.0, "join_timeout": 60.0, **options}
        self.manager = holdfast.CheckpointManager(state, directory, per_worker=own, **options)
        self._step = tf.function(self._one_step)

    def step(self) -> float:
        numbers = tf.cast(next(self.input), tf.float32)[:, None] / 1000
        features = numbers * tf.ones([1, FEATURES]) + self.noise.normal([BATCH, FEATURES])
        return float(self._step(features, numbers))

    def _one_step(self, features: Any, wanted: Any) -> Any:
        def replica(features: Any, wanted: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self.model(features, training=True) - wanted) ** 2)
            gradients = self.world.sum(tape.gradient(loss, self.model.trainable_variables))
            self.optimizer.apply(gradients, self.model.trainable_variables)
            return loss

        return self.world.run(replica, features, wanted)

    @property
    def steps_done(self) -> int:
        return int(self.optimizer.iterations.numpy())

    def state(self) -> dict[str, dict[str, str]]:
        """Digests of all that the next step depends on; moves the input on."""
        others = self.model.non_trainable_variables
        return {
            "weights": _digests(self.model.trainable_variables),
            "optimizer": _digests(self.optimizer.variables),
            "statistics": _digests([v for v in others if "seed" not in v.path]),
            "seeds": _digests([v for v in others if "seed" in v.path]),
            "noise": digests({"state": self.noise.state}),
            "input": digests({str(i): next(self.input) for i in range(3)}),
        }


def _digests(variables: list[Any]) -> dict[str, str]:
    # By number: in the names, Keras counts the models and layers of a process.
    return digests({str(i): v for i, v in enumerate(variables)})


def train(
    world: Any, *, directory: str, steps: int, save_every: int, killed: int | None = None, when: str = ""
) -> dict[str, Any]:
    """Train up to `steps`, from the newest checkpoint if there is one.

    killed: the worker that kills itself.
    when: "writing" its part of the second save, or "between" that save and the next.
    """
    training = Training(world, directory)
    with training.manager as manager:
        restored = manager.restore_or_initialize()
        first, losses = training.steps_done, []
        while training.steps_done < steps:
            losses.append(training.step())
            done = training.steps_done
            if done % save_every == 0:
                if killed == world.index and when == "writing" and done == 2 * save_every:
                    manager.wait()  # the first one may be being written still
                    product.write_objects = dying(product.write_objects)
                manager.save(checkpoint_number=done)
            if killed == world.index and when == "between" and done == 2 * save_every + 1:
                manager.wait()
                os.kill(os.getpid(), signal.SIGKILL)
    return {"restored": restored, "first": first, "losses": losses, "state": training.state()}


def dying(write_objects: Callable[..., Any]) -> Callable[..., Any]:
    """Writes a part of the objects, and dies in the middle."""

    def write_and_die(*args: Any, **kwargs: Any) -> Any:
        kwargs["progress"] = lambda count: os.kill(os.getpid(), signal.SIGKILL)
        return write_objects(*args, **kwargs)

    return write_and_die
