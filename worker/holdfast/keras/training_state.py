"""Everything that a Keras model needs to go on training, as one `tf.train.Checkpoint`.

TensorFlow saves what it finds by walking from object to object along attributes. Of a Keras 3 model it does not find
the state of seed generators (dropout, random layers) and of metrics, nor any layer or variable that is held in a list,
a tuple, a dictionary or a set; of a tf_keras model not the random generators and the metrics of `compile`. Here such
an object is given to TensorFlow as one more child of the layer that owns it, under a name with a hyphen, which no
attribute can have: `layer-2`, `weight-0`, `state-0`, `seed_generator-0`, `metric-0-1`. So it is saved below the key of
its owner (`model/layer-2/seed_generator-0/...`), and TensorFlow's own deferred restore brings it back when it is
created after the restore. See docs/design/004-restore.md.
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
    """A `tf.train.Checkpoint` of all that a Keras 3 or tf_keras model needs to go on as if it had never stopped.

    It holds, below the key `model`, the weights, what `compile` makes (the optimizer above all), the state of the
    seed generators and the metrics. More can be added to it as attributes, such as the optimizer of a custom training
    loop. It is a checkpoint like any other, for `holdfast.CheckpointManager` as for TensorFlow's own. The model may be
    compiled, and its layers and optimizer be built, after this call, and after a restore too: what comes later is
    restored when it comes. Only metrics that the first step of `fit` makes start from zero, as in each epoch. The
    children that this adds belong to the model's own objects, so a plain `tf.train.Checkpoint(model=model)` made
    afterwards has them as well.

    Not in it, being no state of the model: Keras's global seed generator (that of `keras.random` functions called
    without `seed`), callbacks, and the position in the input data.

    Raises InvalidRequest for what is no Keras model on TensorFlow. Warns of a tf_keras layer that draws from
    TensorFlow's stateful random ops: no checkpoint can hold their state.
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
    """A checkpoint that looks through its model anew at each save and restore."""

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
        """As TensorFlow's. `restore` goes through this too."""
        status = super().read(save_path, options)
        if load := Load.of(status):
            load.on_restored(self.late_attacher())
        return status

    def late_attacher(self) -> Callable[[Iterable[Any]], None]:
        """What is to be called after each deferred restoration with the objects that it has reached.

        It attaches what has come since the restore, if a value waits for it.
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
    """A model and all layers below it."""
    return [model, *model._flatten_layers(include_self=False)]


def _extras(layer: Any) -> Iterator[tuple[str, Any]]:
    """What a layer owns itself, as far as it exists, by names that are the same in every equal model.

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
    """The metrics that `compile` asked for, as far as they exist: with tf_keras they, with Keras 3 their variables."""
    found = [getattr(container, "metrics", None) or [] for container in _containers(model)]
    if not isinstance(model, tf.Module):
        tracker = getattr(model, "_loss_tracker", None)
        found = [[] if tracker is None else [tracker], *found]
        found = [[variable for metric in metrics for variable in metric.variables] for metrics in found]
    for i, values in enumerate(found):
        yield from ((f"compiled_metric-{i}-{j}", value) for j, value in enumerate(values))


def _containers(model: Any) -> tuple[Any, Any]:
    """What makes the metrics of a compiled model, of its losses and others, on its first batch; None where nothing."""
    if isinstance(model, tf.Module):
        return getattr(model, "compiled_loss", None), getattr(model, "compiled_metrics", None)
    return getattr(model, "_compile_loss", None), getattr(model, "_compile_metrics", None)


def _attach(layer: Any) -> None:
    """Make children of what TensorFlow does not see; each is then restored, if a value waits for it."""
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
    """Attach metrics that are made in the first step of `fit`, after which no deferred restoration may come.

    They keep the zeros that they have then: `fit` starts them anew in each epoch, and has just done so.
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
    """Keras 3 takes what TensorFlow notes down on a layer for new state of the layer, unless told otherwise."""
    if isinstance(layer, tf.Module):
        return nullcontext()
    from keras.src.utils.tracking import DotNotTrackScope

    scope: AbstractContextManager[None] = DotNotTrackScope()
    return scope


def _waiting(layer: Any) -> dict[str, Any]:
    """What a restore has for the layer that did not exist, by name."""
    layer._maybe_initialize_trackable()
    waiting: dict[str, Any] = layer._deferred_dependencies
    return waiting


def _expects(layer: Any) -> bool:
    """Whether a value waits for something that only this module would make a child of the layer."""
    return any(map(_OURS.fullmatch, _waiting(layer)))


def _forget_missed(layer: Any) -> None:
    """Give up values that were not given out when their owner came: it has gone on since, and they are of the past."""
    waiting = _waiting(layer)
    missed = [name for name, _ in _extras(layer) if name in waiting] if waiting else []
    for name in missed:
        del waiting[name]
        if not _METRIC.fullmatch(name):
            _log.warning("%s of layer %s was created after the restore and not restored", name, layer.name)
