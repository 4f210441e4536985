"""A Keras model without what `compile` made, as a `tf.train.Checkpoint`."""

from __future__ import annotations

from functools import partial
from typing import Any

import tensorflow as tf

from holdfast import tensorflow_internals as internals
from holdfast.keras.training_state import training_state
from holdfast.layers.owned import METRIC
from holdfast.trackables import children


class WeightsState(internals.AskedCheckpoint):
    """What `training_state` holds, but for optimizer and metrics.

    TensorFlow restores by the names of children. Here the model's children are found twice: below `model`, as in a
    `training_state(model)` and in a `tf.train.Checkpoint(model=model)`, and at the root, as in a
    `tf.train.Checkpoint(model)` and in `load_weights` of tf_keras. So all of these can restore it. At the root they are
    left out if a checkpoint has something else by one of the names, such as `read`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model=tf.train.Checkpoint())
        # TensorFlow does not follow functions: the model itself is no part of this.
        self._attach = training_state(model).before_it_is_looked_at
        self._children = partial(children, model)

    def before_it_is_looked_at(self) -> None:
        self._attach()
        found = {
            name: child
            for name, child in self._children().items()
            if not (_is_optimizer(child) or _is_metric(child) or METRIC.fullmatch(name))
        }
        names_are_free = not any(hasattr(type(self), name) for name in found) and "model" not in found
        for name, child in found.items():
            setattr(self.model, name, child)
            if names_are_free:
                setattr(self, name, child)


def _is_optimizer(child: Any) -> bool:
    return callable(getattr(child, "apply_gradients", None))


def _is_metric(child: Any) -> bool:
    return all(callable(getattr(child, name, None)) for name in ("update_state", "result"))
