"""The door to what the layers and models of both Kerases hold, and TensorFlow does not find.

The tables of the names that are used here, and their check, are in `tensorflow_internals`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import tensorflow as tf

from holdfast.tensorflow_internals import imported


def is_layer(found: Any) -> bool:
    """Return whether an object is a layer or model of Keras 3, with its TensorFlow backend, or of tf_keras."""
    from tensorflow.python.trackable.base import Trackable

    kinds = [keras.layers.Layer for keras in map(imported, ("keras", "tf_keras")) if keras]
    return isinstance(found, Trackable) and isinstance(found, tuple(kinds))


def is_of_tf_keras(layer: Any) -> bool:
    return isinstance(layer, tf.Module)  # which no layer of Keras 3 is


def layers_in(model: Any) -> list[Any]:
    """Return a model and all layers below it."""
    return [model, *model._flatten_layers(include_self=False)]


def owned_by(layer: Any) -> dict[str, Sequence[Any]]:
    """Return by kind what a layer keeps in lists that TensorFlow does not search, in order of creation."""
    if is_of_tf_keras(layer):
        random = isinstance(layer, sys.modules["tf_keras"].src.engine.base_layer.BaseRandomLayer)
        return {"random_generator": [layer._random_generator] if random else []}
    return {
        "weight": layer._trainable_variables,
        "state": layer._non_trainable_variables,
        "layer": layer._layers,
        "seed_generator": [generator.state for generator in layer._seed_generators],
        "metric": layer._metrics,
    }


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
    if container.built or "build" in vars(container):
        return
    build = container.build

    def build_and_tell(*args: Any, **kwargs: Any) -> None:
        build(*args, **kwargs)
        del container.build
        then()

    container.build = build_and_tell


def make_child(layer: Any, name: str, value: Any) -> None:
    """Make an object a child of a layer for TensorFlow, not for Keras. It is restored if a value waits for it."""
    # Keras 3 takes what TensorFlow notes down on a layer for new state of the layer, unless told otherwise.
    scope = nullcontext() if is_of_tf_keras(layer) else sys.modules["keras"].src.utils.tracking.DotNotTrackScope()
    with scope:
        layer._track_trackable(value, name, overwrite=True)
