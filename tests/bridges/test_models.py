"""Which model is exported, how numbers are quantized, and what is refused once the checkpoint is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from holdfast import CheckpointManager, Incremental
from holdfast.keras import training_state
from holdfast_storage.layout import ARCHITECTURE
from support.bridged import PREDICT, X, holdfast, keras_functional, predictions

pytestmark = [pytest.mark.tensorflow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(("kind", "size", "worst"), [("float16", 0.7, 1e-2), ("dynamic", 0.6, 0.1), ("int8", 0.6, 0.2)])
def test_quantized(tmp_path: Path, kind: str, size: float, worst: float) -> None:
    """What is quantized is smaller, predicts about the same, and takes and gives the same types. Guards against an
    option that does nothing."""
    model = wide()
    with CheckpointManager(training_state(model), tmp_path / "run") as manager:
        manager.save(1, blocking=True)
    sizes = {}
    for quantize in ("none", kind):
        out = tmp_path / f"{quantize}.tflite"
        more = ["--representative", "support.bridged:samples"] if quantize == "int8" else []
        done = holdfast("export", tmp_path / "run", out, "--quantize", quantize, *more)
        assert done.exit_code == 0, done.output
        sizes[quantize] = out.stat().st_size
    assert sizes[kind] < size * sizes["none"]
    expected, found = predictions(model), PREDICT["tflite"](tmp_path / f"{kind}.tflite", "")
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < worst * np.abs(expected).max()


def wide() -> Any:
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(256, "relu"), keras.layers.Dense(64)])


def deeper() -> Any:
    return keras.Sequential(
        [keras.layers.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(9), keras.layers.Dense(9)]
    )


def twins() -> Any:
    return tf.train.Checkpoint(model=keras_functional(), other=keras_functional())


def unbuilt() -> Any:
    return keras.Sequential([keras.layers.Dense(1)])


def broken() -> Any:
    raise ValueError("no data here")


SHAPES: dict[str, Callable[[Any], Any]] = {
    "by another name": lambda model: tf.train.Checkpoint(net=model, step=tf.Variable(3)),
    "in a state in a checkpoint": lambda model: tf.train.Checkpoint(state=training_state(model), step=tf.Variable(3)),
    "as the model itself": training_state,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_wherever_the_model_is(tmp_path: Path, shape: str) -> None:
    """The model is found where the program's checkpoint has it. Guards against an export of initial values."""
    model = keras_functional()
    with CheckpointManager(SHAPES[shape](model), tmp_path / "run") as manager:
        manager.save(1, blocking=True)
    assert holdfast("export", tmp_path / "run", tmp_path / "m.keras").exit_code == 0
    assert np.array_equal(PREDICT["keras"](tmp_path / "m.keras", "keras functional"), predictions(model))


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_what_layers_have_learnt(tmp_path: Path, library: Any) -> None:
    """Vocabularies and statistics of `adapt` come along. Guards against a served model that knows no word."""
    layers = library.layers
    words, numbers = library.Input((1,), dtype="string", name="w"), library.Input((2,), name="n")
    lookup, normalization = layers.StringLookup(name="l"), layers.Normalization(name="s")
    lookup.adapt(np.array(["a", "b", "b", "c"]))
    normalization.adapt(X[:, :2] * 7 + 3)
    found = layers.Flatten(name="f")(layers.Embedding(8, 3, name="e")(lookup(words)))
    model = library.Model([words, numbers], layers.Concatenate(name="c")([found, normalization(numbers)]))
    given = [tf.constant([["b"], ["never"], ["c"]]), tf.constant(X[:3, :2])]
    expected = np.asarray(model(given))
    with CheckpointManager(training_state(model), tmp_path / "run") as manager:
        manager.save(1, blocking=True)
    for format in ("keras", "savedmodel"):
        done = holdfast("export", tmp_path / "run", tmp_path / f"m.{format}")
        assert done.exit_code == 0, done.output
    loaded = library.models.load_model(tmp_path / "m.keras")
    assert np.array_equal(np.asarray(loaded(given)), expected)
    served = tf.saved_model.load(str(tmp_path / "m.savedmodel"))
    assert np.array_equal(np.asarray(served.serve(given)), expected)


def test_one_of_two(tmp_path: Path) -> None:
    """Of a checkpoint with two models, a function says which one. Guards against a guess."""
    state = twins()
    with CheckpointManager(state, tmp_path / "run") as manager:
        manager.save(1, blocking=True)
    refused = holdfast("export", tmp_path / "run", tmp_path / "m.keras")
    assert refused.exit_code == 2
    assert "holds 2 models (model, other)" in refused.output
    done = holdfast("export", tmp_path / "run", tmp_path / "m.keras", "--model", "bridges.test_models:twins")
    assert done.exit_code == 0, done.output
    assert np.array_equal(PREDICT["keras"](tmp_path / "m.keras", "keras functional"), predictions(state.model))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with CheckpointManager(training_state(keras_functional()), tmp_path / "run") as manager:
        manager.save(1, blocking=True)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("nothing", "is not module:function"),
        ("no.such.module:f", "ModuleNotFoundError"),
        ("support.bridged:no_such", "AttributeError"),
        ("support.bridged:samples", "not a Keras model"),
        ("bridges.test_models:unbuilt", "without variables"),
        ("bridges.test_models:broken", "ValueError: no data here"),
        ("bridges.test_models:wide", "does not fit the model"),
        ("bridges.test_models:deeper", "has no value for"),
    ],
)
def test_no_such_model(run: Path, model: str, told: str) -> None:
    """A function that makes no model, or another one, is refused in a sentence, and nothing is written."""
    done = holdfast("export", run, run.parent / "m.keras", "--model", model)
    assert done.exit_code == 2
    assert told in done.output
    assert not (run.parent / "m.keras").exists()


def test_damaged(run: Path) -> None:
    """A checkpoint that is not what was committed is not exported, be it in a weight or in the architecture. Guards
    against a model of wrong numbers that is served."""
    (data,) = run.glob("ckpt-1.*/*.data-*")
    (architecture,) = run.glob(f"ckpt-1.*/{ARCHITECTURE}")
    for path, change in ((data, lambda b: bytes([b[0] ^ 1]) + b[1:]), (architecture, lambda b: b.replace(b"4", b"5"))):
        whole = path.read_bytes()
        path.write_bytes(change(whole))
        done = holdfast("export", run, run.parent / "m.keras")
        assert done.exit_code == 1, done.output
        assert path.name in done.output
        assert not (run.parent / "m.keras").exists()
        path.write_bytes(whole)


def test_a_delta(tmp_path: Path) -> None:
    """A step that is saved by what has changed is exported as it is when restored."""
    table = keras.layers.Embedding(1000, 8, name="table")
    model = keras.Sequential([keras.layers.Input((1,)), table, keras.layers.Flatten()])
    state = training_state(model)
    options = {"incremental": Incremental(full_every=10), "blocking": True}
    with CheckpointManager(state, tmp_path / "run", **options) as manager:
        for step in (1, 2):
            values = table.embeddings.numpy()
            values[step] = step
            table.embeddings.assign(values)
            manager.save(step)
    assert list((tmp_path / "run").glob("ckpt-2.*/*.delta.index"))
    for format in ("safetensors", "checkpoint"):
        done = holdfast("export", f"{tmp_path / 'run'}@2", tmp_path / format, "--format", format)
        assert done.exit_code == 0, done.output
    from safetensors.numpy import load_file

    assert np.array_equal(load_file(tmp_path / "safetensors")["table/embeddings"], table.embeddings.numpy())
    prefix = tf.train.latest_checkpoint(str(tmp_path / "checkpoint"))
    key = next(key for key, shape in tf.train.list_variables(prefix) if shape == [1000, 8])
    assert np.array_equal(tf.train.load_checkpoint(prefix).get_tensor(key), table.embeddings.numpy())


def test_to_another_storage(run: Path) -> None:
    """A file and a folder go to a URL, and are replaced only with leave."""
    place = f"memory:/{run}"
    for name in ("m.keras", "m.savedmodel"):
        assert holdfast("export", run, f"{place}/{name}").exit_code == 0
        again = holdfast("export", run, f"{place}/{name}")
        assert "is there already" in again.output
        assert holdfast("export", run, f"{place}/{name}", "--overwrite").exit_code == 0
    fs = fsspec.filesystem("memory")
    found = {path.removeprefix(f"{run}/") for path in fs.find(str(run))}
    assert {"m.keras", "m.savedmodel/saved_model.pb", "m.savedmodel/variables/variables.index"} <= found
