"""Finds what a plain `tf.train.Checkpoint` of a Keras model leaves out, since TensorFlow does not see it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from holdfast import keras_internals as internals
from holdfast.layers.owned import DRAWN, METRIC, owned
from holdfast.tensorflow_internals import Held
from holdfast.trackables import few, walk
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.logger import logger

_log = logger("holdfast")

_REMEDY = "To keep them, put holdfast.keras.training_state(model) into the checkpoint, in the place of the model"


def check_unseen(checkpoint: Any) -> list[str]:
    """Return by name the random generators and metrics of a checkpoint's layers that are not in the checkpoint.

    Raises InvalidRequest if anything else is not: the outputs of the model would not come back. What a program sets up
    by arguments of its layers it has again when it starts again; this does not count.
    """
    if not any(map(sys.modules.get, ("keras", "tf_keras"))):
        return []
    seen = {id(found): found for _, found in walk(checkpoint)}
    layers = [layer for found in seen.values() if internals.is_layer(found) for layer in internals.layers_in(found)]
    lost, others = [], []
    for layer in {id(layer): layer for layer in layers}.values():
        for name, value in owned(layer):
            if id(value) in seen or internals.is_layer(value) or (isinstance(value, Held) and value.is_empty):
                continue
            if isinstance(value, Held):
                lost.append(value.what)
            elif not (DRAWN.fullmatch(name) or METRIC.fullmatch(name)):
                lost.append(f"{getattr(value, 'path', name)} of layer {layer.name}")
            elif not (DRAWN.fullmatch(name) and internals.draws_from_stateful_ops(layer)):
                others.append(f"{name} of {layer.name}")
    if lost:
        raise InvalidRequest(
            f"the checkpoint leaves out {len(lost)} parts of a Keras model that TensorFlow does not see ({few(lost)}): "
            f"a restart would go on without them. {_REMEDY}"
        )
    return others


def warn_of_unseen(others: Sequence[str]) -> None:
    """Log what `check_unseen` returns."""
    if others:
        _log.warning(
            "the checkpoint leaves out %d random generators and metrics of a Keras model, which TensorFlow does not "
            "see (%s): after a restart they begin anew. %s",
            len(others),
            few(others),
            _REMEDY,
        )
