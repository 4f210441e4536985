"""Saves that must be refused before a byte is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import state
import tensorflow as tf

import holdfast
from holdfast.errors import HoldfastError

OPTIONS = {"save_timeout": 60.0, "join_timeout": 60.0}


def failure_of(call: Callable[[], Any]) -> dict[str, Any] | None:
    """What a call raised, and after how many seconds; None if it did not."""
    begun = time.monotonic()
    try:
        call()
    except HoldfastError as error:
        return {
            "type": type(error).__name__,
            "message": str(error),
            "workers": list(error.workers),
            "phase": error.phase,
            "object": error.object,
            "seconds": time.monotonic() - begun,
        }
    return None


def differing(world: Any, *, directory: str, difference: str) -> dict[str, Any] | None:
    """The last worker's model is not the others'."""
    odd = world.index == world.size - 1
    shape = (3, 4) if odd and difference == "shape" else (4, 3)
    dtype = "float64" if odd and difference == "dtype" else "float32"
    variables = {"a": tf.Variable(1.0), "m": tf.Variable(tf.ones(shape, dtype)), "z": tf.Variable(2.0)}
    if odd and difference == "missing":
        del variables["m"]
    if odd and difference == "more":
        variables["k"] = tf.Variable(3.0)
    with holdfast.CheckpointManager(tf.train.Checkpoint(**variables), directory, **OPTIONS) as manager:
        return failure_of(lambda: manager.save(blocking=True))


def renamed(world: Any, *, directory: str) -> list[Any]:
    """The one variable has got another name since it was saved; the program tries to go on all the same."""
    with holdfast.CheckpointManager(tf.train.Checkpoint(net=tf.Variable(1.0)), directory, **OPTIONS) as manager:
        manager.save(blocking=True)
    with holdfast.CheckpointManager(tf.train.Checkpoint(network=tf.Variable(0.0)), directory, **OPTIONS) as manager:
        failures = [failure_of(manager.restore_or_initialize), failure_of(lambda: manager.save(blocking=True))]
        manager.restore().expect_partial()
        return [*failures, failure_of(lambda: manager.save(blocking=True))]


def flipped(world: Any, *, directory: str, variable: str, worker: int) -> dict[str, Any]:
    """One bit of one worker's copy of a variable changes before the second of three saves, and back after it."""
    checkpoint = state.make("keras", world.scope(), filled=True)
    with holdfast.CheckpointManager(checkpoint, directory, **OPTIONS) as manager:
        first = manager.save(blocking=True)
        if world.index == worker:
            _flip_a_bit(state.variables(checkpoint)[variable])
        failure = failure_of(lambda: manager.save(blocking=True))
        if world.index == worker:
            _flip_a_bit(state.variables(checkpoint)[variable])
        third = manager.save(blocking=True)
        return {"failure": failure, "committed": [first, third], "listed": manager.checkpoints}


def _flip_a_bit(variable: Any) -> None:
    """The lowest one of the last number of this worker's copy."""
    (mine,) = tf.distribute.get_strategy().experimental_local_results(variable.value)
    mine = getattr(mine, "values", (mine,))[0]
    numbers = np.array(mine)
    numbers.reshape(-1).view(np.uint32)[-1] ^= 1
    mine.assign(numbers)
