"""The door to what the layers and models of both Kerases hold, and TensorFlow does not find.

The tables of the names that are used here, and their check, are in `tensorflow_internals`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import FunctionType
from typing import Any

import tensorflow as tf

from holdfast.tensorflow_internals import after_next, imported


def is_layer(found: Any) -> bool:
    """Return whether an object is a layer or model of Keras 3, with its TensorFlow backend, or of tf_keras."""
    from tensorflow.python.trackable.base import Trackable

    kinds = [keras.layers.Layer for keras in map(imported, ("keras", "tf_keras")) if keras]
    return isinstance(found, Trackable) and isinstance(found, tuple(kinds))


def is_model(found: Any) -> bool:
    """Return whether an object is a model of Keras 3, with its TensorFlow backend, or of tf_keras."""
    return is_layer(found) and _is_model(found)


def is_of_tf_keras(layer: Any) -> bool:
    return isinstance(layer, tf.Module)  # which no layer of Keras 3 is


def layers_in(model: Any) -> list[Any]:
    """Return a model and all layers below it."""
    return [model, *model._flatten_layers(include_self=False)]


def has_own_functions(layer: Any) -> bool:
    """Return whether a layer has an argument that is a function, such as an activation, and not Keras's own.

    Of such a function, Keras may note down no more than its name, which one of its own may have as well.
    """
    arguments = layer.get_config()
    functions = (each for name, each in vars(layer).items() if isinstance(each, FunctionType) and name in arguments)
    return any(each.__module__.partition(".")[0] not in ("keras", "tf_keras", "tensorflow") for each in functions)


def owned_by(layer: Any) -> dict[str, Sequence[Any]]:
    """Return by kind what a layer keeps in lists that TensorFlow does not search, in order of creation."""
    if is_of_tf_keras(layer):
        random = isinstance(layer, sys.modules["tf_keras"].src.engine.base_layer.BaseRandomLayer)
        return {"random_generator": [layer._random_generator] if random else [], "state": states_of(layer)}
    return {
        "weight": layer._trainable_variables,
        "state": layer._non_trainable_variables,
        "layer": layer._layers,
        "seed_generator": [generator.state for generator in layer._seed_generators],
        "metric": layer._metrics,
    }


def states_of(layer: Any) -> list[Any]:
    """Return the variables in which a tf_keras layer carries its state from batch to batch, as far as they exist."""
    return [each for each in tf.nest.flatten(layer.states) if each is not None] if _carries_states(layer) else []


def makes_states(layer: Any) -> bool:
    """Return whether such a layer will make these variables by its next `reset_states`."""
    return is_of_tf_keras(layer) and _carries_states(layer) and not states_of(layer)


def _carries_states(layer: Any) -> bool:
    return isinstance(layer, _layers_like(layer).RNN) and layer.stateful


def looks_up(layer: Any) -> bool:
    """Return whether a layer finds tokens in a vocabulary that is not one of its arguments."""
    layers = _layers_like(layer)
    return isinstance(layer, layers.StringLookup | layers.IntegerLookup) and not layer._has_input_vocabulary


def discretizes(layer: Any) -> bool:
    """Return whether a layer of Keras 3 is a Discretization. That of tf_keras has variables."""
    return not is_of_tf_keras(layer) and isinstance(layer, sys.modules["keras"].layers.Discretization)


def has_own(layer: Any, *methods: str) -> bool:
    """Return whether a method of a layer is neither Keras's own nor that of one of Keras's layers."""
    kinds = (next((kind for kind in type(layer).__mro__ if name in vars(kind)), object) for name in methods)
    return any(kind.__module__.partition(".")[0] not in ("keras", "tf_keras", "builtins") for kind in kinds)


def _layers_like(layer: Any) -> Any:
    return sys.modules["tf_keras" if is_of_tf_keras(layer) else "keras"].layers


def draws_from_stateful_ops(layer: Any) -> bool:
    """Return whether a layer draws random numbers by operations whose state no checkpoint can hold."""
    generators = owned_by(layer).get("random_generator", ())
    return any(each._rng_type == each.RNG_LEGACY_STATEFUL for each in generators)


def metrics_by_container(model: Any) -> list[Sequence[Any]]:
    """Return the metrics of `compile` that exist: those of the loss, and others."""
    metrics = [[] if each is None else each.metrics or [] for each in containers_of(model)]
    if is_of_tf_keras(model):
        return metrics
    tracker = model._loss_tracker if _is_model(model) else None
    return [[] if tracker is None else [tracker], *metrics]


def containers_of(model: Any) -> tuple[Any, Any]:
    """Return the objects that make a compiled model's metrics on its first batch, of losses and others; None if
    none."""
    if not _is_model(model):
        return None, None
    if is_of_tf_keras(model):
        return _like_keras(model.compiled_loss), _like_keras(model.compiled_metrics)
    return _like_keras(model._compile_loss), _like_keras(model._compile_metrics)


def _like_keras(container: Any) -> Any:
    """Return None for a container of a program's own that does not make metrics as Keras's do."""
    return container if all(hasattr(container, name) for name in ("build", "built", "metrics")) else None


def _is_model(layer: Any) -> bool:
    return isinstance(layer, sys.modules["tf_keras" if is_of_tf_keras(layer) else "keras"].Model)


def on_built(container: Any, then: Callable[[], None]) -> None:
    """Call `then` once such a container has made its metrics, unless it already has."""
    if not container.built:
        after_next(container, "build", then)


def make_child(layer: Any, name: str, value: Any) -> None:
    """Make an object a child of a layer for TensorFlow, not for Keras. It is restored if a value waits for it."""
    # Keras 3 takes what TensorFlow notes down on a layer for new state of the layer, unless told otherwise.
    scope = nullcontext() if is_of_tf_keras(layer) else sys.modules["keras"].src.utils.tracking.DotNotTrackScope()
    with scope:
        layer._track_trackable(value, name, overwrite=True)
