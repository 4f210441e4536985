"""Everything that a Keras model needs to go on training, as one `tf.train.Checkpoint`.

TensorFlow saves what it finds by walking from object to object along attributes. In a Keras 3 model it misses the state
of seed generators (dropout, random layers) and of metrics, and every layer or variable in a list, tuple, dictionary or
set. In a tf_keras model it misses the random generators and the metrics of `compile`. This module gives TensorFlow each
such object as one more child of the layer that owns it. The child's name has a hyphen, which no attribute can have:
`layer-2`, `weight-0`, `state-0`, `seed_generator-0`, `metric-0-1`. So the object is saved below the key of its owner
(`model/layer-2/seed_generator-0/...`), and if it is created after a restore, TensorFlow's own deferred restore brings
it back. See docs/design/004-restore.md.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import tensorflow as tf

from holdfast.tensorflow_internals import Load
from holdfast_storage.errors import InvalidRequest

_log = logging.getLogger(__name__)
_OURS = re.compile(r"(weight|state|layer|seed_generator|random_generator|(compiled_)?metric)-\d+(-\d+)?")
_METRIC = re.compile(r"(compiled_)?metric-\d+-\d+")


def training_state(model: Any) -> Any:
    """Return a `tf.train.Checkpoint` of all that a Keras 3 or tf_keras model needs to go on as if it had never stopped.

    It holds, below the key `model`, the weights, what `compile` makes (above all the optimizer), the state of the seed
    generators, and the metrics. You can add more as attributes, such as the optimizer of a custom training loop. It
    works with `holdfast.CheckpointManager` and with TensorFlow's own. The model may be compiled, and its layers and
    optimizer built, after this call and even after a restore: what is created later is restored when it is created.
    Only metrics that the first step of `fit` makes start from zero, as in each epoch. The added children belong to the
    model's own objects, so a plain `tf.train.Checkpoint(model=model)` that is made later has them as well.

    The checkpoint does not hold what is no state of the model: Keras's global seed generator (used by `keras.random`
    functions without `seed`), callbacks, and the position in the input data.

    Raises InvalidRequest for anything but a Keras model on TensorFlow. Warns of tf_keras layers that draw from
    TensorFlow's stateful random ops, whose state no checkpoint can hold.
    """
    if not isinstance(model, tf.__internal__.tracking.Trackable) or not hasattr(model, "_flatten_layers"):
        raise InvalidRequest(
            f"training_state() takes a model of Keras 3 (with its TensorFlow backend) or of tf_keras, not {model!r}"
        )
    for layer in _layers(model):
        generator = getattr(layer, "_random_generator", None)
        if generator is not None and generator._rng_type == generator.RNG_LEGACY_STATEFUL:
            warnings.warn(
                f"what layer {layer.name} draws cannot be saved, so a resumed run draws other numbers: call "
                "tf_keras.backend.experimental.enable_tf_random_generator() before the model is made",
                stacklevel=2,
            )
            break
    return TrainingState(model)


class TrainingState(tf.train.Checkpoint):  # type: ignore[misc]
    """A checkpoint that searches its model anew at each save and restore."""

    def __init__(self, model: Any) -> None:
        super().__init__(model=model)

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> Any:
        # TensorFlow asks the root before anything below it, in a save and in a restore.
        if save_type == "checkpoint":
            for layer in _layers(self.model):
                _forget_missed(layer)
                _attach(layer)
        return super()._trackable_children(save_type, **kwargs)

    def read(self, save_path: Any, options: Any = None) -> Any:
        """Read like TensorFlow's `Checkpoint.read`. `restore` calls this, too."""
        status = super().read(save_path, options)
        if load := Load.of(status):
            load.on_restored(self.late_attacher())
        return status

    def late_attacher(self) -> Callable[[Iterable[Any]], None]:
        """Return a function to call after each deferred restoration, with the objects that it has reached.

        The function attaches what was created since the restore, if a value waits for it.
        """
        expecting = [layer for layer in _layers(self.model) if _expects(layer)]

        def attach(restored: Iterable[Any]) -> None:
            expecting.extend(each for each in restored if hasattr(each, "_flatten_layers") and _expects(each))
            for layer in list(expecting):
                waiting = _waiting(layer)
                for name, value in _extras(layer):
                    if name in waiting:
                        _track(layer, name, value)
            expecting[:] = filter(_expects, expecting)

        return attach


def _layers(model: Any) -> list[Any]:
    """Return a model and all layers below it."""
    return [model, *model._flatten_layers(include_self=False)]


def _extras(layer: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a layer owns itself, as far as it exists, under names that are the same in every equal model.

    Names count within the owner, in order of creation, which does not change when more is built.
    """
    if isinstance(layer, tf.Module):
        generator = getattr(layer, "_random_generator", None)
        if generator is not None:
            yield "random_generator-0", generator
    else:
        # A Sequential model gets its input layer, which has no state, in front of the others when it is built.
        layers = [each for each in layer._layers if type(each).__name__ != "InputLayer"]
        for kind, values in (
            ("weight", layer._trainable_variables),
            ("state", layer._non_trainable_variables),
            ("layer", layers),
            ("seed_generator", [generator.state for generator in layer._seed_generators]),
        ):
            yield from ((f"{kind}-{i}", value) for i, value in enumerate(values))
        for i, metric in enumerate(layer._metrics):
            yield from ((f"metric-{i}-{j}", variable) for j, variable in enumerate(metric.variables))
    yield from _compiled(layer)


def _compiled(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the metrics of `compile` that exist: in tf_keras the metrics, in Keras 3 their variables."""
    found = [getattr(container, "metrics", None) or [] for container in _containers(model)]
    if not isinstance(model, tf.Module):
        tracker = getattr(model, "_loss_tracker", None)
        found = [[] if tracker is None else [tracker], *found]
        found = [[variable for metric in metrics for variable in metric.variables] for metrics in found]
    for i, values in enumerate(found):
        yield from ((f"compiled_metric-{i}-{j}", value) for j, value in enumerate(values))


def _containers(model: Any) -> tuple[Any, Any]:
    """Return the objects that make a compiled model's metrics on its first batch, of losses and others; None if
    none."""
    if isinstance(model, tf.Module):
        return getattr(model, "compiled_loss", None), getattr(model, "compiled_metrics", None)
    return getattr(model, "_compile_loss", None), getattr(model, "_compile_metrics", None)


def _attach(layer: Any) -> None:
    """Make what TensorFlow does not see a child of its layer. It is then restored if a value waits for it."""
    present = {id(child) for child in tf.train.TrackableView.children(layer).values()}
    for name, value in _extras(layer):
        if id(value) not in present:
            _track(layer, name, value)
    for container in _containers(layer):
        if hasattr(container, "build") and not container.built and "build" not in vars(container):
            _watch_build(layer, container)


def _track(layer: Any, name: str, value: Any) -> None:
    with _untracked(layer):
        layer._track_trackable(value, name, overwrite=True)


def _watch_build(layer: Any, container: Any) -> None:
    """Attach metrics that the first step of `fit` makes, since no deferred restoration may come after it.

    They keep their zeros: `fit` starts them anew in each epoch, and has just done so.
    """
    build = container.build

    def build_and_attach(*args: Any, **kwargs: Any) -> None:
        build(*args, **kwargs)
        del container.build
        waiting = _waiting(layer)
        made = list(_compiled(layer))
        for name, value in made:  # all of them before any is attached: that may attach the others
            for position in waiting.get(name, ()):
                for variable in (value, *getattr(value, "variables", ())):
                    variable._maybe_initialize_trackable()
                    variable._update_uid = position.restore_uid + 0.5  # to TensorFlow: restored, and changed since
        for name, value in made:
            _track(layer, name, value)

    container.build = build_and_attach


def _untracked(layer: Any) -> AbstractContextManager[None]:
    """A context in which Keras 3 does not take what TensorFlow stores on a layer for new state of the layer."""
    if isinstance(layer, tf.Module):
        return nullcontext()
    from keras.src.utils.tracking import DotNotTrackScope

    scope: AbstractContextManager[None] = DotNotTrackScope()
    return scope


def _waiting(layer: Any) -> dict[str, Any]:
    """Return what a restore has for children that the layer did not have, by name."""
    layer._maybe_initialize_trackable()
    waiting: dict[str, Any] = layer._deferred_dependencies
    return waiting


def _expects(layer: Any) -> bool:
    """Return whether a value waits for something that only this module makes a child of the layer."""
    return any(map(_OURS.fullmatch, _waiting(layer)))


def _forget_missed(layer: Any) -> None:
    """Give up values whose owner was created unnoticed: it has gone on since, and they are outdated."""
    waiting = _waiting(layer)
    missed = [name for name, _ in _extras(layer) if name in waiting] if waiting else []
    for name in missed:
        del waiting[name]
        if not _METRIC.fullmatch(name):
            _log.warning("%s of layer %s was created after the restore and not restored", name, layer.name)
