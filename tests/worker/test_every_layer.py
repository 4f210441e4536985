"""Every layer class of both Kerases that simple arguments make: it goes on after a restart as if it had never stopped.

`python tests/worker/test_every_layer.py` prints the table of docs/layers.md.
"""

from __future__ import annotations

import inspect
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from holdfast.keras import training_state

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore"),  # of constructions and calls that are only tried
]

EQUAL, NOTHING, UNTRIED = "goes on equal", "has no state", "not tried"


def arguments(k: Any) -> dict[str, Any]:
    """Values for arguments, by their names."""
    layers = k.layers
    return {
        "units": 3,
        "filters": 2,
        "kernel_size": 2,
        "input_dim": 9,
        "output_dim": 3,
        "num_heads": 2,
        "key_dim": 2,
        "value_dim": 2,
        "head_dim": 2,
        "num_query_heads": 2,
        "num_key_value_heads": 2,
        "rate": 0.4,
        "stddev": 0.3,
        "factor": 0.3,
        "height_factor": 0.3,
        "width_factor": 0.3,
        "max_value": 1.0,
        "value_range": (0, 1),
        "scale": 0.5,
        "offset": 0.5,
        "height": 3,
        "width": 3,
        "dims": (2, 1),
        "n": 2,
        "axes": 1,
        "num_bins": 3,
        "num_tokens": 5,
        "target_shape": (2, 2),
        "size": 2,
        "padding": 1,
        "cropping": 1,
        "function": _double,
        "equation": "ab,bc->ac",
        "output_shape": 3,
        "partial_output_shape": 3,
        "layer": layers.Dense(3) if k is keras else layers.LSTM(2),
        "cell": layers.LSTMCell(3),
        "activation": "tanh",
        "max_tokens": None,
        "min_value": 0.0,
        "sequence_length": 3,
        "groups": 1,
        "layers": [layers.Dense(3)],
        "pool_size": 2,
        "output_size": 2,
        "cells": [layers.LSTMCell(3), layers.LSTMCell(2)],
        "max_number": 2,
    }


def _double(x: Any) -> Any:
    return x * 2


ADAPTED = {"StringLookup", "IntegerLookup", "TextVectorization", "Discretization", "Normalization"}
OF_TWO = {"MultiHeadAttention", "GroupedQueryAttention"}  # called with two arguments
OTHERS = {
    "Layer": "a base class",
    "Wrapper": "a base class",
    "InputLayer": "has no call",
    **dict.fromkeys(
        ("AbstractRNNCell", "GRUCell", "LSTMCell", "SimpleRNNCell", "StackedRNNCells"), "is part of an RNN"
    ),
    "AugMix": "draws from Python's own generator, which belongs to the process",
    "RandAugment": "draws from Python's own generator, in some versions",
    "DenseFeatures": "takes feature columns",
    "FlaxLayer": "needs another library",
    "JaxLayer": "needs another library",
    "MelSpectrogram": "does not run on every CPU",
    "SpectralNormalization": "does not run eagerly",
    "TFSMLayer": "takes a SavedModel",
    "TorchModuleWrapper": "needs another library",
}
BY_CLASS: dict[str, dict[str, Any]] = {
    "Wrapper": {},
    "TimeDistributed": {"layer": "Dense"},
    "SpectralNormalization": {"layer": "Dense"},
    "Bidirectional": {"layer": "LSTM"},
    "EinsumDense": {"equation": "...b,bc->...c", "output_shape": 3},
    "MultiHeadAttention": {"num_heads": 2, "key_dim": 2},
    "GroupedQueryAttention": {"head_dim": 2, "num_query_heads": 2, "num_key_value_heads": 2},
    "GroupNormalization": {"groups": 1},
    "RandomPosterization": {"factor": 4},
    "CategoryEncoding": {"num_tokens": 5},
    "MelSpectrogram": {"sequence_stride": 8, "fft_length": 16, "num_mel_bins": 4},
    "HashedCrossing": {"num_bins": 5},
    "Hashing": {"num_bins": 5},
}


def inputs(kind: Any) -> list[Any]:
    """What a layer may take: it is called with the first of these that it accepts."""
    made = np.random.RandomState(1)
    if kind.__name__ == "STFTSpectrogram":  # reads beyond shorter ones
        return [np.random.RandomState(1).rand(2, 400, 1).astype(np.float32)]
    shapes = (2, 4), (2, 4, 3), (2, 6, 6, 3), (2, 5, 5, 5, 3)
    numbers = [made.rand(*shape).astype(np.float32) for shape in shapes]
    more = [made.rand(2, 3, 6, 6, 3).astype(np.float32), made.rand(2, 3, 5, 5, 5, 2).astype(np.float32)]
    sequence = made.rand(2, 3, 5, 2).astype(np.float32)
    pairs = [[x, x + 1] for x in numbers[:2]]
    words = tf.constant([["a"], ["b"], ["c"], ["a"]])
    ids = np.array([[1], [2], [3], [1]])
    return [*numbers, sequence, *more, *pairs, words, ids, [ids[:, 0], ids[:, 0]], [words, words]]


def classes(k: Any) -> dict[str, Any]:
    found = {
        name: kind
        for name, kind in vars(k.layers).items()
        if inspect.isclass(kind) and issubclass(kind, k.layers.Layer)
    }
    return {name: kind for name, kind in sorted(found.items()) if name == kind.__name__ or kind.__name__ not in found}


def made(k: Any, kind: Any) -> Any:
    values = {**arguments(k), **BY_CLASS.get(kind.__name__, {})}
    if isinstance(values["layer"], str):
        values["layer"] = getattr(k.layers, values["layer"])(3)
    wanted = BY_CLASS.get(kind.__name__, {}).keys() | {
        name
        for name, each in inspect.signature(kind).parameters.items()
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
    }
    if kind.__name__ == "Discretization":
        wanted = {"num_bins"}
    return kind(**{name: values[name] for name in wanted})


def model_of(k: Any, kind: Any) -> Any:
    layer = made(k, kind)

    class Model(k.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.held = [layer]

        def call(self, x: Any) -> Any:
            [held] = self.held
            if kind.__name__ in OF_TWO:
                return held(x, x)
            takes_training = "training" in inspect.signature(held.call).parameters
            return held(x, training=True) if takes_training else held(x)

    return Model()


def called(model: Any, x: Any) -> list[Any]:
    result = model(x)
    return [np.asarray(tf.sparse.to_dense(y) if isinstance(y, tf.SparseTensor) else y) for y in tf.nest.flatten(result)]


def outcome(k: Any, kind: Any, folder: Path) -> str:
    """Save a layer with random weights, restore it into a new one that is not built, and compare what comes next."""
    why: Exception | None = None
    for x in inputs(kind):
        try:
            model = model_of(k, kind)
            if kind.__name__ in ADAPTED:
                model.held[0].adapt(x)
            called(model, x)
            break
        except Exception as error:
            why = error
    else:
        return f"{UNTRIED}: {type(why).__name__}"
    numbers = np.random.RandomState(2)
    for weight in [] if kind.__name__ in ADAPTED else model.weights:
        if tf.as_dtype(weight.dtype).is_floating and "seed" not in weight.name:
            weight.assign(numbers.rand(*weight.shape))
    prefix = training_state(model).save(str(folder / "ckpt"))
    expected = [called(model, x) for _ in range(2)]
    k.utils.set_random_seed(9)
    again = model_of(k, kind)
    status = training_state(again).restore(prefix)
    for each in expected:
        for mine, theirs in zip(called(again, x), each, strict=True):
            np.testing.assert_array_equal(mine, theirs, err_msg=kind.__name__)
    status.assert_consumed()
    keys = [key for key, _ in tf.train.list_variables(prefix) if not key.startswith(("_", "save_counter"))]
    return EQUAL if keys else NOTHING


@pytest.fixture(autouse=True)
def _generators() -> Iterator[None]:
    tf_keras.backend.experimental.enable_tf_random_generator()
    yield
    tf_keras.backend.experimental.disable_tf_random_generator()


@pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_every_layer(k: Any, tmp_path: Path) -> None:
    """No layer silently loses its state. Guards against kinds of state that nobody has thought of, and new layers."""
    table, failures = outcomes(k, tmp_path)
    assert not failures
    untried = {name for name, found in table.items() if found.startswith(UNTRIED)}
    assert untried - {name for name in untried if table[name].endswith("ImportError")} <= OTHERS.keys()
    assert sum(found == EQUAL for found in table.values()) > 50


def outcomes(k: Any, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    table, failures = {}, {}
    for name, kind in classes(k).items():
        if name in OTHERS and not (name == "SpectralNormalization" and k is keras):
            table[name] = f"{UNTRIED}: {OTHERS[name]}"
            continue
        try:
            table[name] = outcome(k, kind, folder / name)
        except (AssertionError, Exception) as error:
            failures[name] = f"{type(error).__name__}: {str(error)[:400]}"
    return table, failures


def main() -> None:
    warnings.simplefilter("ignore")
    tf_keras.backend.experimental.enable_tf_random_generator()
    print("# Layers and what becomes of their state\n")
    print("Made by `python tests/worker/test_every_layer.py`: a model with the layer is saved as a `training_state`,")
    print("restored into a new one that is still to be built, and called twice.\n")
    for k in (keras, tf_keras):
        with tempfile.TemporaryDirectory() as folder:
            table, failures = outcomes(k, Path(folder))
        assert not failures, failures
        print(f"## {k.__name__} {k.__version__}\n\n| what | layers |\n| --- | --- |")
        for found in sorted(set(table.values())):
            print(f"| {found} | {', '.join(name for name, each in table.items() if each == found)} |")
        print()


if __name__ == "__main__":
    main()
