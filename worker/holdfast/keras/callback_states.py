"""What the callbacks of a `fit` remember from one epoch to the next, as part of its checkpoint.

Of Keras's own callbacks this is a table; any other may have `get_state()` and `set_state(state)`, of which the state is
what JSON can hold. EarlyStopping's best weights are variables of the checkpoint.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import tensorflow as tf

from holdfast.fit_internals import STATE_OF_CALLBACKS
from holdfast.keras.outside import outside_of_strategies
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.logger import logger

_log = logger("holdfast")

States = dict[str, dict[str, Any]]


class CallbackStates:
    """The states of the callbacks of one `fit`.

    Attributes:
        best_weights: variables, to be saved: those of each callback that keeps the best weights.
    """

    def __init__(self, callbacks: Sequence[Any], model: Any) -> None:
        """Make the variables, by the weights that the model has."""
        self._callbacks = dict(_named(callbacks))
        self.best_weights: dict[str, list[Any]] = {}
        for name, callback in self._callbacks.items():
            if "EarlyStopping" in _kinds(callback) and callback.restore_best_weights:
                weights = model.get_weights()
                self.best_weights[name] = outside_of_strategies(partial(_variables, weights))
            if "CSVLogger" in _kinds(callback) and not callback.append:
                _log.warning(
                    "CSVLogger(%r, append=False) begins its file anew when fit goes on after a restart, and loses the "
                    "epochs before: give it append=True",
                    callback.filename,
                )

    def get(self) -> States:
        """Return all states, and put the best weights into their variables."""
        return {name: state for name, each in self._callbacks.items() if (state := self._get(name, each)) is not None}

    def set(self, states: States) -> None:
        """Give the callbacks what `get` returned. A callback that was not there then stays as it is."""
        for name, callback in self._callbacks.items():
            if name in states:
                self._set(name, callback, states[name])

    def _get(self, name: str, callback: Any) -> Any:
        if hasattr(callback, "get_state"):
            return as_plain(name, callback.get_state())
        kinds = _kinds(callback)
        state = {each: getattr(callback, each) for each in _attributes(callback, kinds)}
        if "CSVLogger" in kinds:
            callback.csv_file.flush()
            state["size"] = tf.io.gfile.stat(callback.filename).length
        if name in self.best_weights:
            state["has_weights"] = callback.best_weights is not None
            for variable, value in zip(self.best_weights[name], callback.best_weights or (), strict=False):
                variable.assign(value)
        return as_plain(name, state) if state else None

    def _set(self, name: str, callback: Any, state: Any) -> None:
        if hasattr(callback, "set_state"):
            callback.set_state(state)
            return
        kinds = _kinds(callback)
        for each in _attributes(callback, kinds):
            setattr(callback, each, state[each])
        if "CSVLogger" in kinds and callback.append:
            _cut(callback, state["size"])
        if name in self.best_weights and state["has_weights"]:
            callback.best_weights = [each.numpy() for each in self.best_weights[name]]


def _variables(values: Sequence[Any]) -> list[Any]:
    return [tf.Variable(each, trainable=False) for each in values]


def _named(callbacks: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield callbacks under names that are the same in the next process: by class, and numbered within it."""
    counts: dict[str, int] = {}
    for callback in callbacks:
        kind = type(callback).__name__
        counts[kind] = counts.get(kind, 0) + 1
        yield f"{kind}-{counts[kind]}", callback


def _kinds(callback: Any) -> set[str]:
    """Return the names of the classes of Keras to which a callback belongs."""
    modules = [sys.modules.get(library) for library in ("keras", "tf_keras")]
    return {
        each.__name__
        for each in type(callback).__mro__
        if any(getattr(module.callbacks, each.__name__, None) is each for module in modules if module)
    }


def _attributes(callback: Any, kinds: set[str]) -> list[str]:
    return [name for kind in kinds for name in STATE_OF_CALLBACKS.get(kind, ()) if name in vars(callback)]


def as_plain(name: str, state: Any) -> Any:
    """Return what JSON makes of a state. Raises InvalidRequest if it cannot hold it."""
    try:
        return json.loads(json.dumps(state, default=_plain))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"what {name} has to remember cannot be saved as JSON: {error}", object=name) from error


def _plain(value: Any) -> Any:
    """Return a number or array of numpy or TensorFlow as Python's own."""
    value = value.numpy() if hasattr(value, "numpy") else value
    if not hasattr(value, "tolist"):
        raise TypeError(f"{type(value).__name__} is no number, text, list or mapping of these")
    return value.tolist()


def _cut(logger: Any, size: int) -> None:
    """Cut off the rows of a CSVLogger's file that are about to be written again."""
    logger.csv_file.close()
    with tf.io.gfile.GFile(logger.filename, "rb") as file:
        kept = file.read(size)
    with tf.io.gfile.GFile(f"{logger.filename}.part", "wb") as file:
        file.write(kept)
    tf.io.gfile.rename(f"{logger.filename}.part", logger.filename, overwrite=True)
    logger.on_train_begin()  # which opens it again
