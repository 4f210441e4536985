"""Keras's own training loop, saved and restored."""

from __future__ import annotations

import importlib
import os
import signal
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from values import digests

import holdfast
import holdfast.keras

STEPS = 5  # an epoch
EPOCHS = 2  # before the restore


def fit(world: Any, *, directory: str, framework: str, mirrored: bool) -> dict[str, Any]:
    """Train two epochs with a save at the end of each, and restore into a new model; then train one more with both.

    framework: "keras" or "tf_keras".
    mirrored: with a MirroredStrategy in this process, instead of the world's.
    """
    library = importlib.import_module(framework)
    if framework == "tf_keras":
        library.backend.experimental.enable_tf_random_generator()
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]) if mirrored else world.strategy
    first = make_model(library, strategy)
    with holdfast.CheckpointManager(holdfast.keras.training_state(first), directory, join_timeout=60.0) as manager:
        save = library.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: manager.save())
        _train(first, 0, EPOCHS, [save])
        manager.wait()
        saved = state_of(first)
    second = make_model(library, strategy)
    with holdfast.CheckpointManager(holdfast.keras.training_state(second), directory, join_timeout=60.0) as manager:
        prefix = manager.restore_or_initialize()
        restored = state_of(second)
        resumed = [_train(second, EPOCHS, 1, []), state_of(second)]
    went_on = [_train(first, EPOCHS, 1, []), state_of(first)]
    return {"prefix": prefix, "saved": saved, "restored": restored, "resumed": resumed, "went_on": went_on}


def go_on(world: Any, *, directory: str, epochs: int, killed: int | None = None) -> dict[str, Any]:
    """Train a Keras 3 model up to `epochs`, from the newest checkpoint if there is one, and save each epoch.

    killed: the worker that kills itself in the middle of its last epoch.
    """
    model = make_model(keras, world.strategy)
    with holdfast.CheckpointManager(holdfast.keras.training_state(model), directory, join_timeout=60.0) as manager:
        manager.restore_or_initialize()
        first, told = int(model.optimizer.iterations.numpy()) // STEPS, []
        for epoch in range(first, epochs):
            callbacks = [Dies(epoch * STEPS + 2)] if killed == world.index and epoch == epochs - 1 else []
            told.append(_train(model, epoch, 1, callbacks))
            manager.save()
        return {"first": first, "told": told, "state": state_of(model)}


class Dies(keras.callbacks.Callback):  # type: ignore[misc]
    """Kills its process after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.model.optimizer.iterations.numpy() == self._steps:
            os.kill(os.getpid(), signal.SIGKILL)


def make_model(library: Any, strategy: Any) -> Any:
    library.utils.set_random_seed(11)
    with strategy.scope():
        layers = library.layers
        model = library.Sequential(
            [
                layers.InputLayer((4,)),
                layers.Dense(16),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Dropout(0.3),
                layers.Dense(1),
            ]
        )
        model.compile(optimizer=library.optimizers.Adam(0.01), loss="mse", metrics=["mae"])
        model.optimizer.build(model.trainable_variables)
    return model


def _train(model: Any, first: int, epochs: int, callbacks: list[Any]) -> dict[str, Any]:
    numbers = np.random.default_rng(first).normal(size=(STEPS * 8, 4)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((numbers, numbers.sum(1, keepdims=True))).batch(8).repeat()
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    history = model.fit(
        data.with_options(options),
        initial_epoch=first,
        epochs=first + epochs,
        steps_per_epoch=STEPS,
        callbacks=callbacks,
        verbose=0,
    ).history
    return {name: [float(value) for value in values] for name, values in history.items()}


def state_of(model: Any) -> dict[str, str]:
    """Weights, with the statistics of batch normalisation, and optimizer."""
    variables = [*model.weights, *model.optimizer.variables]
    return digests({f"{i} {variable.name}": variable.numpy() for i, variable in enumerate(variables)})
