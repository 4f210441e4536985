"""A training job with a state of a given shape: what the contestants save and what pays for their saves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import crc32c
import tensorflow as tf

from benchmarks.cases import Case


class Training:
    """A residual network trained with momentum, whose weights and momentum slots are the whole state.

    Every step reads and changes every variable, in place, with TensorFlow's own optimizer kernel: a snapshot that
    shares the variables' memory makes the next step copy all of it, and that cost is inside the timed loop. (Keras 3
    replaces the momentum's buffers instead of changing them, which spares half of the copies: the dearer way is timed.)

    Attributes:
        checkpoint: a `tf.train.Checkpoint` of the state, nothing else in it.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        shape = (case.width, case.width)
        # Scaled so that the sum over all layers stays of order one at any depth.
        deviation = 1 / math.sqrt(case.width * case.layers)
        self._weights = [tf.Variable(tf.random.normal(shape, stddev=deviation)) for _ in range(case.layers)]
        self._momenta = [tf.Variable(tf.zeros(shape)) for _ in range(case.layers)]
        self._batch = tf.random.normal((case.batch, case.width))
        self._step: Callable[[], Any] = tf.function(self._train)
        self.checkpoint = tf.train.Checkpoint(weights=self._weights, momenta=self._momenta)

    def run(self, steps: int) -> None:
        """Train; returns when the last step is finished."""
        for _ in range(steps):
            # Fetching the loss waits for the outputs, and a tf.function ends when its stateful operations have ended.
            self._step().numpy()

    def buffers(self) -> list[memoryview]:
        """The bytes of every variable, without copying; a view stays as it is when training goes on."""
        return [memoryview(variable.read_value()).cast("B") for variable in (*self._weights, *self._momenta)]

    def _train(self) -> Any:
        with tf.GradientTape() as tape:
            hidden = self._batch
            for weight in self._weights:
                hidden = hidden + tf.tanh(hidden @ weight)
            loss = tf.reduce_mean(hidden * hidden)
        for weight, slot, gradient in zip(
            self._weights, self._momenta, tape.gradient(loss, self._weights), strict=True
        ):
            tf.raw_ops.ResourceApplyMomentum(var=weight.handle, accum=slot.handle, lr=1e-3, grad=gradient, momentum=0.9)
        return loss


def digest(buffers: list[memoryview]) -> int:
    """CRC32C of all the buffers, one after another."""
    value = 0
    for buffer in buffers:
        value = crc32c.crc32c(buffer, value)
    return value
