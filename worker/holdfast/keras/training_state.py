"""Everything that a Keras model needs to go on training, as one `tf.train.Checkpoint`.

TensorFlow saves what it finds by walking from object to object along attributes. In a Keras 3 model it misses the state
of seed generators (dropout, random layers) and of metrics, and every layer or variable in a list, tuple, dictionary or
set. In a tf_keras model it misses the random generators, the metrics of `compile`, and what stateful RNNs carry from
batch to batch. In both it misses what is in no variable, such as a vocabulary. This module gives TensorFlow each such
object as one more child of the layer that owns it (`layers/owned.py`). So it is saved below the key of its owner
(`model/layer-2/seed_generator-0/...`), and if it is created after a restore, TensorFlow's own deferred restore brings
it back. See docs/design/004-restore.md and docs/design/025-state-beside-variables.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import tensorflow as tf

from holdfast import keras_internals as internals
from holdfast.layers.owned import METRIC, OURS, compiled, owned
from holdfast.tensorflow_internals import AskedCheckpoint, Load, after_next, check, mark_as_changed, waiting_at
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.logger import logger

_log = logger(__name__)


def training_state(model: Any) -> Any:
    """Return a `tf.train.Checkpoint` of all that a Keras 3 or tf_keras model needs to go on as if it had never stopped.

    It holds, below the key `model`, the weights, what `compile` makes (above all the optimizer), the state of the seed
    generators, the metrics, what stateful RNNs carry from batch to batch, what layers have learnt by `adapt` (the
    statistics of Normalization, vocabularies, boundaries), and what layers of your own save by `save_own_variables` and
    `save_assets`. What a layer has by its arguments, such as `StringLookup(vocabulary=...)`, is not in it.

    You can add more as attributes, such as the optimizer of a custom training loop. It works with
    `holdfast.CheckpointManager` and with TensorFlow's own. The model may be compiled, and its layers and optimizer
    built, after this call and even after a restore: what is created later is restored when it is created. Only metrics
    that the first step of `fit` makes start from zero, as in each epoch. The added children belong to the model's own
    objects, so a plain `tf.train.Checkpoint(model=model)` that is made later has them as well.

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
                _attach_waited_for(layer)
            expecting[:] = filter(_expects, expecting)

        return attach


def _attach(layer: Any) -> None:
    """Make what TensorFlow does not see a child of its layer. It is then restored if a value waits for it."""
    present = {id(child) for child in tf.train.TrackableView.children(layer).values()}
    for name, value in owned(layer):
        if id(value) not in present:
            internals.make_child(layer, name, value)
    for container in internals.containers_of(layer):
        if container is not None:
            internals.on_built(container, partial(_attach_compiled, layer))
    if internals.makes_states(layer):
        after_next(layer, "reset_states", partial(_attach_waited_for, layer))


def _attach_waited_for(layer: Any) -> None:
    waiting = waiting_at(layer)
    for name, value in owned(layer):
        if name in waiting:
            internals.make_child(layer, name, value)


def _attach_compiled(layer: Any) -> None:
    """Attach metrics that the first step of `fit` makes, since no deferred restoration may come after it.

    They keep their zeros: `fit` starts them anew in each epoch, and has just done so.
    """
    waiting = waiting_at(layer)
    made = list(compiled(layer))
    for name, value in made:  # list all before attaching any, which may attach others
        for position in waiting.get(name, ()):
            for variable in (value, *getattr(value, "variables", ())):
                mark_as_changed(variable, position)
    for name, value in made:
        internals.make_child(layer, name, value)


def _expects(layer: Any) -> bool:
    """Return whether a value waits for something that only this module makes a child of the layer."""
    return any(map(OURS.fullmatch, waiting_at(layer)))


def _forget_missed(layer: Any) -> None:
    """Give up values whose owner was created unnoticed: it has gone on since, and they are outdated."""
    waiting = waiting_at(layer)
    missed = [name for name, _ in owned(layer) if name in waiting] if waiting else []
    for name in missed:
        del waiting[name]
        if not METRIC.fullmatch(name):
            _log.warning("%s of layer %s was created after the restore and not restored", name, layer.name)
