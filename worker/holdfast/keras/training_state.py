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

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import tensorflow as tf

from holdfast import keras_internals as internals
from holdfast.tensorflow_internals import AskedCheckpoint, Load, check, mark_as_changed, waiting_at
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.logger import logger

_log = logger(__name__)
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
    check()
    if not internals.is_layer(model):
        raise InvalidRequest(
            f"training_state() takes a model of Keras 3 (with its TensorFlow backend) or of tf_keras, not {model!r}"
        )
    for layer in internals.layers_in(model):
        if internals.draws_from_stateful_ops(layer):
            warnings.warn(
                f"what layer {layer.name} draws cannot be saved, so a resumed run draws other numbers: call "
                "tf_keras.backend.experimental.enable_tf_random_generator() before the model is made",
                stacklevel=2,
            )
            break
    return TrainingState(model)


class TrainingState(AskedCheckpoint):
    """A checkpoint that searches its model anew at each save and restore."""

    def __init__(self, model: Any) -> None:
        super().__init__(model=model)

    def before_it_is_looked_at(self) -> None:
        for layer in internals.layers_in(self.model):
            _forget_missed(layer)
            _attach(layer)

    def read(self, save_path: Any, options: Any = None) -> Any:
        """Read like TensorFlow's `Checkpoint.read`. `restore` calls this, too."""
        check()
        status = super().read(save_path, options)
        if load := Load.of(status):
            load.on_restored(self.late_attacher())
        return status

    def late_attacher(self) -> Callable[[Iterable[Any]], None]:
        """Return a function to call after each deferred restoration, with the objects that it has reached.

        The function attaches what was created since the restore, if a value waits for it.
        """
        expecting = [layer for layer in internals.layers_in(self.model) if _expects(layer)]

        def attach(restored: Iterable[Any]) -> None:
            expecting.extend(each for each in restored if internals.is_layer(each) and _expects(each))
            for layer in list(expecting):
                waiting = waiting_at(layer)
                for name, value in _extras(layer):
                    if name in waiting:
                        internals.make_child(layer, name, value)
            expecting[:] = filter(_expects, expecting)

        return attach


def _extras(layer: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a layer owns itself, as far as it exists, under names that are the same in every equal model.

    Names count within the owner, in order of creation, which does not change when more is built.
    """
    for kind, values in internals.owned_by(layer).items():
        if kind == "metric":
            for i, metric in enumerate(values):
                yield from ((f"metric-{i}-{j}", variable) for j, variable in enumerate(metric.variables))
        else:
            # When it is built, a Sequential model gets an input layer, without state, in front of the others.
            counted = [each for each in values if type(each).__name__ != "InputLayer"]
            yield from ((f"{kind}-{i}", value) for i, value in enumerate(counted))
    yield from _compiled(layer)


def _compiled(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the metrics of `compile` that exist: in tf_keras the metrics, in Keras 3 their variables."""
    for i, metrics in enumerate(internals.metrics_by_container(model)):
        of_variables = [variable for metric in metrics for variable in metric.variables]
        values = metrics if internals.is_of_tf_keras(model) else of_variables
        yield from ((f"compiled_metric-{i}-{j}", value) for j, value in enumerate(values))


def _attach(layer: Any) -> None:
    """Make what TensorFlow does not see a child of its layer. It is then restored if a value waits for it."""
    present = {id(child) for child in tf.train.TrackableView.children(layer).values()}
    for name, value in _extras(layer):
        if id(value) not in present:
            internals.make_child(layer, name, value)
    for container in internals.containers_of(layer):
        if container is not None:
            internals.on_built(container, partial(_attach_compiled, layer))


def _attach_compiled(layer: Any) -> None:
    """Attach metrics that the first step of `fit` makes, since no deferred restoration may come after it.

    They keep their zeros: `fit` starts them anew in each epoch, and has just done so.
    """
    waiting = waiting_at(layer)
    made = list(_compiled(layer))
    for name, value in made:  # list all before attaching any, which may attach others
        for position in waiting.get(name, ()):
            for variable in (value, *getattr(value, "variables", ())):
                mark_as_changed(variable, position)
    for name, value in made:
        internals.make_child(layer, name, value)


def _expects(layer: Any) -> bool:
    """Return whether a value waits for something that only this module makes a child of the layer."""
    return any(map(_OURS.fullmatch, waiting_at(layer)))


def _forget_missed(layer: Any) -> None:
    """Give up values whose owner was created unnoticed: it has gone on since, and they are outdated."""
    waiting = waiting_at(layer)
    missed = [name for name, _ in _extras(layer) if name in waiting] if waiting else []
    for name in missed:
        del waiting[name]
        if not _METRIC.fullmatch(name):
            _log.warning("%s of layer %s was created after the restore and not restored", name, layer.name)
