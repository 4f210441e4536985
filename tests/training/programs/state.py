"""States to save: made alike in every process, filled with values that follow from their names, or empty.

Nothing here knows of Holdfast: a stock reader makes them too.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

BIG = 4096
"""Rows of the variable that is cut into slices."""


def make(kind: str, scope: Any, filled: bool) -> Any:
    """A `tf.train.Checkpoint` of a kind of state, its variables mirrored where `scope` is a strategy's."""
    return {"various": _various, "unequal": _unequal, "keras": _keras}[kind](scope, filled)


def variables(checkpoint: Any) -> dict[str, Any]:
    """Of a checkpoint made here, by names that are the same in every process."""
    children: dict[str, Any] = dict(tf.train.TrackableView.children(checkpoint))
    children.pop("save_counter", None)
    found: dict[str, Any] = {}
    for name, child in children.items():
        listed = getattr(child, "variables", None)
        found |= {name: child} if listed is None else {f"{name}/{i}": v for i, v in enumerate(listed)}
    return found


def _various(scope: Any, filled: bool) -> Any:
    """One variable large enough to be cut over all workers, and what is special: shapes, types, strings."""
    with scope:
        mirrored = {
            "big": _variable("big", (BIG, 256), "float32", filled),
            "one_row": _variable("one_row", (1, 40_000), "float32", filled),
            "deep": _variable("deep", (5, 3, 7, 1_001), "float32", filled),
            "scalar": _variable("scalar", (), "float32", filled),
            "empty": _variable("empty", (0, 3), "float32", filled),
            "steps": _variable("steps", (), "int64", filled),
        }
    types = ("float64", "float16", "bfloat16", "int8", "uint16", "bool", "complex64", "string")
    return tf.train.Checkpoint(**mirrored, **{t: _variable(t, (3, 5), t, filled) for t in types})


def _unequal(scope: Any, filled: bool) -> Any:
    """200 variables of one number to several hundred thousand."""
    sizes = (10 ** np.random.default_rng(1).uniform(0.0, 5.6, 200)).astype(int)
    with scope:
        return tf.train.Checkpoint(
            **{f"v{i}": _variable(f"v{i}", (int(size),), "float32", filled) for i, size in enumerate(sizes)}
        )


def _keras(scope: Any, filled: bool) -> Any:
    """A Keras 3 model and its optimizer, as TensorFlow itself finds them."""
    with scope:
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(32, name="a"),
                keras.layers.BatchNormalization(name="b"),
                keras.layers.Dense(1, name="c"),
            ]
        )
        optimizer = keras.optimizers.Adam()
        optimizer.build(model.trainable_variables)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
        for name, variable in variables(checkpoint).items():
            if name != "optimizer/1":  # the learning rate
                variable.assign(_value(name, variable.shape, variable.dtype, filled))
    return checkpoint


def _variable(name: str, shape: tuple[int, ...], dtype: str, filled: bool) -> Any:
    return tf.Variable(_value(name, shape, dtype, filled), dtype=dtype, name=name)


def _value(name: str, shape: tuple[int, ...], dtype: str, filled: bool) -> Any:
    random = np.random.default_rng(zlib.crc32(name.encode()))
    numbers = random.integers(1, 100, shape) if filled else np.zeros(shape, int)
    if dtype == "string":
        return tf.strings.as_string(numbers)
    return tf.cast(tf.constant(numbers % 2 if dtype == "bool" else numbers), dtype)


def numbers_of(checkpoint: Any) -> Mapping[str, Any]:
    return {name: variable.numpy() for name, variable in variables(checkpoint).items()}
