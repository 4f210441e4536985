"""Keras's `fit` with `holdfast.keras.ModelCheckpoint`, on workers that are told different things."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import tensorflow as tf

import holdfast.keras


def keep_best(world: Any, *, directory: str, framework: str, scores: list[list[float]]) -> dict[str, Any]:
    """Train one epoch for each score. What each worker is told in an epoch is its own: `scores[epoch][worker]`."""
    keras = importlib.import_module(framework)
    keras.utils.set_random_seed(1)
    with world.scope():
        model = keras.Sequential([keras.layers.InputLayer((4,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")

    class Scores(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["score"] = scores[epoch][world.index]

    options = {"join_timeout": 60.0, "save_timeout": 60.0, "max_to_keep": None}
    keeper = holdfast.keras.ModelCheckpoint(directory, "score", save_best_only=True, mode="max", **options)
    numbers = np.ones((32, 4), "float32")
    data = tf.data.Dataset.from_tensor_slices((numbers, numbers[:, :1])).batch(8)
    model.fit(data, epochs=len(scores), callbacks=[Scores(), keeper], verbose=0)
    kept = [prefix.rpartition("-")[2] for prefix in keeper.manager.checkpoints]
    keeper.manager.close()
    return {"kept": kept, "best": keeper.best}
