"""TensorFlow's own preemption handler, given Holdfast's manager where it expects TensorFlow's."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import tensorflow as tf

import holdfast


class Ended(Exception):
    """The handler has saved and ends the program."""


def _end() -> None:
    raise Ended


def train(world: Any, *, directory: str, steps: int, preempted_at: int) -> dict[str, float]:
    """Train up to a step. The last worker gets SIGTERM at `preempted_at`; 0: nobody does."""
    with world.scope():
        value = tf.Variable(0.0)

    @tf.function
    def step() -> None:
        world.run(lambda: value.assign_add(world.sum([1.0])[0] / world.size))

    handler_class = tf.distribute.experimental.PreemptionCheckpointHandler
    terms = tf.distribute.experimental.TerminationConfig(exit_fn=_end)
    with holdfast.CheckpointManager(tf.train.Checkpoint(value=value), directory, join_timeout=60.0) as manager:
        handler = handler_class(world.strategy.cluster_resolver, manager, termination_config=terms)
        restored = float(value.numpy())
        try:
            while value.numpy() < steps:
                if world.index == world.size - 1 and value.numpy() + 1 == preempted_at:
                    os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(
                    0.02
                )  # the handler hears of a signal beside the steps, and takes them to be slower than that
                handler.run(step)
        except Ended:
            manager.wait()
        return {"restored": restored, "value": float(value.numpy()), "saves": len(manager.checkpoints)}
