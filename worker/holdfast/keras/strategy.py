"""A MultiWorkerMirroredStrategy under which Keras 3's `fit`, `evaluate` and `predict` run.

Keras 3 asks its strategy for two things that TensorFlow's MultiWorkerMirroredStrategy refuses:

1. To build a model, it asks for `reduce("MEAN", batch, axis=None)` of a whole batch, which may be a structure of
   tensors. It then looks at shapes and dtypes only.
2. For the logs of a step, it asks for `reduce("MEAN", scalar, axis=0)`. A scalar has no axis 0.

The class below overrides `reduce` to answer both. It also refuses by name what Keras 3 cannot do under any strategy of
several replicas, before the first step: there it would end in errors that name nothing, or train on a part of the data.
All of this uses documented names alone.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from holdfast import keras_internals
from holdfast_storage.errors import InvalidRequest

_RIGHT_METRICS = (3, 10)
"""The release of Keras since which metrics are sums over the replicas. Before, some of their parts counted twice."""


class MultiWorkerMirroredStrategy(tf.distribute.MultiWorkerMirroredStrategy):  # type: ignore[misc]
    """TensorFlow's class of this name, with the same arguments, under which Keras 3 models train as well.

    `fit`, `evaluate` and `predict` give what one process gives on the same global batches, with two exceptions of Keras
    itself, under any strategy. It averages the losses of the replicas, so the examples of a replica that has fewer of
    a batch count more, and a replica that has none counts as a loss of 0: use `drop_remainder=True` where the last
    batch is not a multiple of the number of replicas. And it clips each replica's gradients before it adds them.

    Raises InvalidRequest at the start of `fit` and `evaluate` for what Keras 3 cannot do with several replicas:
    `steps_per_execution` other than 1, `jit_compile=True`, a Python generator as input, and, in `fit`, an optimizer
    with `gradient_accumulation_steps`. Keras 3.8 and 3.9 are refused, since their metrics are wrong there.
    """

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def reduce(self, reduce_op: Any, value: Any, axis: Any) -> Any:
        """Reduce as TensorFlow does, but drop `axis` for scalars.

        Of a tuple, list or dictionary, which TensorFlow refuses, return the `tf.TensorSpec` of each tensor on this
        worker. There may be no mean: workers have different shapes if a batch is uneven or padded by each of them.
        """
        if isinstance(value, tuple | list | dict):
            return tf.nest.map_structure(self._spec, value)
        local = map(tf.convert_to_tensor, self.experimental_local_results(value))
        return super().reduce(reduce_op, value, None if all(each.shape.rank == 0 for each in local) else axis)

    def _spec(self, value: Any) -> Any:
        local = self.experimental_local_results(value)[0]
        return tf.TensorSpec(local.shape, local.dtype) if tf.is_tensor(local) else local

    def scope(self) -> Any:
        """Enter the strategy's scope. Keras does this in each `fit` and `evaluate`, before the first step."""
        if self.num_replicas_in_sync > 1:
            for reason in _reasons_against():
                raise InvalidRequest(f"Keras 3 cannot train or evaluate on several replicas with {reason}")
        return super().scope()


def _reasons_against() -> Iterator[str]:
    """Yield why the Keras 3 call that is going on cannot work, and what to do instead."""
    call, model, x = _keras_call()
    if call not in ("fit", "evaluate") or keras_internals.is_of_tf_keras(model):
        return
    version = sys.modules["keras"].__version__
    if tuple(map(int, version.split(".")[:2])) < _RIGHT_METRICS:
        yield f"its release {version}, whose metrics are wrong there: install keras>=3.10"
    if model.steps_per_execution != 1:
        yield f"steps_per_execution={model.steps_per_execution}: compile the model without it"
    if model.jit_compile:
        yield "jit_compile=True: compile the model without it"
    steps = getattr(model.optimizer, "gradient_accumulation_steps", None)
    if steps and call == "fit":
        yield f"gradient_accumulation_steps={steps}: make the optimizer without it, and the batches larger"
    if inspect.isgenerator(x):
        yield (
            "a generator as input: what is read ahead of it to build the model would be lost. Use "
            "tf.data.Dataset.from_generator, with a function that starts a new generator"
        )


def _keras_call() -> tuple[str, Any, Any]:
    """Return which method of which model is running, and its argument `x`."""
    frame = inspect.currentframe()
    while frame is not None:
        call = frame.f_code.co_name
        if call in ("fit", "evaluate", "predict") and keras_internals.is_layer(model := frame.f_locals.get("self")):
            return call, model, frame.f_locals.get("x")
        frame = frame.f_back
    return "", None, None
