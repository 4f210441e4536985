"""Keras's `fit` with `holdfast.keras.ModelCheckpoint`, on workers that are told different things."""

from __future__ import annotations

import importlib
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf

import holdfast.keras
from holdfast.keras import model_checkpoint

OPTIONS = {"join_timeout": 60.0, "save_timeout": 60.0, "max_to_keep": None}


def keep_best(world: Any, *, directory: str, framework: str, scores: list[list[float]]) -> dict[str, Any]:
    """Train one epoch for each score. What each worker is told in an epoch is its own: `scores[epoch][worker]`."""
    keras = importlib.import_module(framework)

    class Scores(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["score"] = scores[epoch][world.index]

    keeper = holdfast.keras.ModelCheckpoint(directory, "score", save_best_only=True, mode="max", **OPTIONS)
    return {"kept": _train(world, keras, len(scores), [Scores(), keeper]), "best": keeper.best}


def keep_by_time(world: Any, *, directory: str, framework: str, times: list[list[float]]) -> list[str]:
    """Train one epoch, with a save each ten seconds. `times` are what each worker's clock shows, look by look."""
    keeper = holdfast.keras.ModelCheckpoint(directory, save_freq=timedelta(seconds=10), **OPTIONS)
    shown = iter(times[world.index])
    with mock.patch.object(model_checkpoint, "time", SimpleNamespace(monotonic=lambda: next(shown))):
        return _train(world, importlib.import_module(framework), 1, [keeper])


def _train(world: Any, keras: Any, epochs: int, callbacks: list[Any]) -> list[str]:
    """Train four batches an epoch, and return the numbers of the checkpoints."""
    keras.utils.set_random_seed(1)
    with world.scope():
        model = keras.Sequential([keras.layers.InputLayer((4,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    numbers = np.ones((32, 4), "float32")
    data = tf.data.Dataset.from_tensor_slices((numbers, numbers[:, :1])).batch(8)
    model.fit(data, epochs=epochs, callbacks=callbacks, verbose=0)
    kept = [prefix.rpartition("-")[2] for prefix in callbacks[-1].manager.checkpoints]
    callbacks[-1].manager.close()
    return kept
