"""Jobs that live from one scenario to the next, and programs that come to their run directories meanwhile."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from refusals import failure_of
from values import digests

import holdfast
from training import Training

JOBS: dict[str, Training] = {}


def begin(world: Any, *, name: str, directory: str, coordinator: str | None = None) -> str | None:
    """Restore, and go on living; what was restored."""
    job = JOBS[name] = Training(world, directory, per_worker=False, coordinator=coordinator)
    restored: str | None = job.manager.restore_or_initialize()
    return restored


def go_on(world: Any, *, name: str) -> Any:
    """A step and a save: its prefix, or how it failed."""
    job, saved = JOBS[name], []
    job.step()
    failure = failure_of(lambda: saved.append(job.manager.save(blocking=True)))
    return failure or saved[0]


def end(world: Any, *, name: str) -> None:
    JOBS.pop(name).manager.close()


def look(world: Any, *, directory: str) -> dict[str, Any]:
    """What an evaluator or a notebook does, with TensorFlow's functions and with a manager."""
    latest = tf.train.latest_checkpoint(directory)
    found = {}
    for how in ("stock", "manager"):
        model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(64), keras.layers.BatchNormalization()])
        checkpoint = tf.train.Checkpoint(model=model)
        if how == "stock":
            checkpoint.restore(latest).expect_partial()
        else:
            with holdfast.CheckpointManager(checkpoint, directory) as manager:
                manager.restore().expect_partial()
                assert manager.latest_checkpoint == latest
                assert manager.checkpoints[-1] == latest
        found[how] = digests({str(i): v.numpy() for i, v in enumerate(model.variables)})
    keys = tf.train.load_checkpoint(latest).get_variable_to_shape_map()
    return {"latest": latest, "keys": len(keys), **found}
