"""Keras's own `fit` with `BackupAndRestore`: killed, told to go away, and begun again."""

from __future__ import annotations

import importlib
import os
import signal
from typing import Any

import numpy as np
import tensorflow as tf
from fitting import make_model, state_of

import holdfast
import holdfast.keras

STEPS, EPOCHS, SAVED_EVERY = 6, 3, 4


def fit(world: Any, *, directory: str, framework: str, killed_at: int = 0, notice_at: int = 0) -> dict[str, Any]:
    """Train all epochs, of shuffled input with validation, from where the last call with this directory has ended.

    killed_at: the batch of this call after which the last worker kills itself; 0: none.
    notice_at: the batch after which it is told that its host goes away.
    """
    library = importlib.import_module(framework)
    if framework == "tf_keras":
        library.backend.experimental.enable_tf_random_generator()
    model = make_model(library, world.strategy)
    batches: list[tuple[int, int]] = []

    class Watcher(library.callbacks.Callback):  # type: ignore[misc]
        epoch = 0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            batches.append((self.epoch, int(batch)))
            if world.index == world.size - 1 and len(batches) in (killed_at, notice_at):
                os.kill(os.getpid(), signal.SIGKILL if killed_at else signal.SIGTERM)

    backup = holdfast.keras.BackupAndRestore(
        directory,
        save_freq=SAVED_EVERY,
        preemption=holdfast.Preemption(grace=60.0) if notice_at else None,
        join_timeout=60.0,
    )
    stop = library.callbacks.EarlyStopping(patience=EPOCHS, restore_best_weights=True)
    code, history = 0, None
    try:
        history = model.fit(
            _data(7).shuffle(30, seed=5).batch(8).with_options(_by_data()),
            validation_data=_data(2).batch(8).with_options(_by_data()),
            epochs=EPOCHS,
            callbacks=[backup, stop, Watcher()],
            verbose=0,
            shuffle=False,
        ).history
    except holdfast.Preempted as end:
        code = end.code
    return {"code": code, "batches": batches, "history": history, "state": state_of(model)}


def _data(seed: int) -> Any:
    numbers = np.random.default_rng(seed).normal(size=(STEPS * 8, 4)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((numbers, numbers.sum(1, keepdims=True)))


def _by_data() -> Any:
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return options
