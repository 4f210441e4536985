"""`holdfast import`: TensorFlow 1, files that do not fit, and files that would run code."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from holdfast import CheckpointManager
from holdfast.bridges.model import weights_of
from holdfast.keras import training_state
from support.bridged import WRITE, by_function, holdfast, keras_functional, predictions

pytestmark = [pytest.mark.tensorflow, pytest.mark.filterwarnings("ignore")]


def of_tensorflow_1(prefix: Path, values: dict[str, Any], step: int = 41) -> None:
    """Write a checkpoint by names, with a step and a slot of an optimizer; one variable is in two parts."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        assigned = []
        for name, value in values.items():
            parts = v1.fixed_size_partitioner(2) if name == "a/kernel" else None
            made = v1.get_variable(name, value.shape, initializer=v1.zeros_initializer(), partitioner=parts)
            halves = np.split(value, [(len(value) + 1) // 2]) if parts else [value]
            assigned += [v1.assign(p, v) for p, v in zip(list(made) if parts else [made], halves, strict=True)]
        v1.get_variable("a/kernel/Adam", (3, 4), initializer=v1.zeros_initializer())
        v1.train.get_or_create_global_step()
        session.run(v1.global_variables_initializer())
        session.run([*assigned, v1.assign(v1.train.get_global_step(), step)])
        v1.train.Saver().save(session, str(prefix), write_meta_graph=False)


def values_of(model: Any) -> dict[str, Any]:
    return {name: weight.numpy() for name, weight in weights_of(model)}


@pytest.mark.parametrize("named", ["prefix", "index", "folder"])
def test_tensorflow_1(tmp_path: Path, named: str) -> None:
    """A checkpoint by names becomes a step of its number, with every weight; what the model has no place for is told.
    Guards against ten years of checkpoints that nothing reads any more."""
    model = keras_functional()
    of_tensorflow_1(tmp_path / "old" / "model.ckpt-7", values_of(model))
    source = {"prefix": "old/model.ckpt-7", "index": "old/model.ckpt-7.index", "folder": "old"}[named]
    done = holdfast("import", tmp_path / source, tmp_path / "run", *by_function("keras functional"))
    assert done.exit_code == 0, done.output
    assert "as step 41" in done.output
    assert "left out: 1 value (a/kernel/Adam)" in done.output
    again = keras_functional()
    with CheckpointManager(training_state(again), tmp_path / "run") as manager:
        manager.restore(41)
        assert np.array_equal(predictions(again), predictions(model))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda values: values.pop("b/gamma"), "has no value for 1 of the 8 weights of the model (b/gamma)"),
        (lambda values: values.update({"c/bias": np.zeros(2, "f")}), "has the shape (2,), and the model has (1,)"),
    ],
)
def test_another_model(tmp_path: Path, change: Callable[[dict[str, Any]], Any], told: str) -> None:
    """Weights that do not fit are refused by name, and nothing is saved. Guards against a run that goes on from a
    mixture of old and initial values."""
    values = values_of(keras_functional())
    change(values)
    of_tensorflow_1(tmp_path / "model.ckpt-7", values)
    done = holdfast("import", tmp_path / "model.ckpt-7", tmp_path / "run", *by_function("keras functional"))
    assert done.exit_code == 2
    assert told in done.output
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_with_everything(tmp_path: Path) -> None:
    """An object-based checkpoint is taken as it is: texts, tables, the optimizer, half precision. Guards against what a
    model alone has no place for."""

    def made(value: int) -> tf.train.Checkpoint:
        table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        table.insert(tf.constant([f"word {value}"]), tf.constant([value], tf.int64))
        text, half = tf.Variable([f"text {value}"]), tf.Variable(tf.fill([3], tf.cast(value, tf.bfloat16)))
        return tf.train.Checkpoint(table=table, text=text, half=half, empty=tf.Variable(tf.zeros((0, 3)) + value))

    path = made(7).save(str(tmp_path / "old" / "ckpt"))
    refused = holdfast("import", path, tmp_path / "run", *by_function("keras functional"))
    assert "leave --model out" in refused.output
    assert holdfast("import", path, tmp_path / "run").exit_code == 0
    other = made(1)
    with CheckpointManager(other, tmp_path / "run") as manager:
        status = manager.restore(1)
        status.assert_consumed()
    assert other.table.lookup(tf.constant(["word 7", "word 1"])).numpy().tolist() == [7, -1]
    assert other.text.numpy().tolist() == [b"text 7"]
    assert other.half.numpy().tolist() == [7.0] * 3
    assert int(other.save_counter) == 1


def test_a_model_saved_by_tf_keras_2(tmp_path: Path) -> None:
    """A SavedModel of `model.save`, which keeps weights below their layers, is read as well as one of `export`."""
    model = tf_keras.Sequential([tf_keras.layers.Input((3,)), tf_keras.layers.Dense(4, name="a")])
    model.save(tmp_path / "saved", save_format="tf")
    spec = ["--model", "bridges.test_import:dense_of_tf_keras"]
    done = holdfast("import", tmp_path / "saved", tmp_path / "run", *spec)
    assert done.exit_code == 0, done.output
    again = dense_of_tf_keras()
    with CheckpointManager(training_state(again), tmp_path / "run") as manager:
        manager.restore_or_initialize()
        assert np.array_equal(again.get_weights()[0], model.get_weights()[0])


def dense_of_tf_keras() -> Any:
    return tf_keras.Sequential([tf_keras.layers.Input((3,)), tf_keras.layers.Dense(4, name="a")])


def ran(x: Any) -> Any:
    raise AssertionError("code of a file was run")


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_lambda(tmp_path: Path, library: Any, suffix: str) -> None:
    """A file with a lambda is refused, and the lambda is not run. Guards against a model from somewhere that takes over
    who imports it."""
    model = library.Sequential([library.layers.Input((3,)), library.layers.Lambda(lambda x: x)])
    model.save(tmp_path / f"m{suffix}")
    done = holdfast("import", tmp_path / f"m{suffix}", tmp_path / "run")
    assert done.exit_code == 2
    assert "'Lambda'" in done.output
    assert not (tmp_path / "run").exists()


def test_a_module_of_somebody(tmp_path: Path) -> None:
    """A file that names a module that is not Keras's is refused before anything is imported."""
    keras_functional().save(tmp_path / "good.keras")
    with zipfile.ZipFile(tmp_path / "good.keras") as good, zipfile.ZipFile(tmp_path / "evil.keras", "w") as evil:
        for name in good.namelist():
            data = good.read(name)
            if name == "config.json":
                config = json.loads(data)
                config["config"]["layers"][1] |= {"module": "antigravity", "class_name": "Evil"}
                data = json.dumps(config).encode()
            evil.writestr(name, data)
    done = holdfast("import", tmp_path / "evil.keras", tmp_path / "run")
    assert done.exit_code == 2
    assert "'Evil' of 'antigravity'" in done.output


@pytest.mark.parametrize("name", ["none.keras", "broken.keras", "broken.h5", "broken.safetensors", "nothing", "m.onnx"])
def test_what_is_nothing(tmp_path: Path, name: str) -> None:
    """What is not there, or is not what its name says, is refused in a sentence."""
    if "broken" in name or "onnx" in name:
        (tmp_path / name).write_bytes(b"no such thing")
    model = by_function("keras functional") if name.endswith("safetensors") else []
    done = holdfast("import", tmp_path / name, tmp_path / "run", *model)
    assert done.exit_code in (1, 2)
    assert "Traceback" not in done.output
    assert name in done.output
    assert not (tmp_path / "run").exists()


def test_without_a_model(tmp_path: Path) -> None:
    """Weights without a model ask for one, by the option's name."""
    WRITE["weights.h5"](keras_functional(), tmp_path / "m.weights.h5")
    of_tensorflow_1(tmp_path / "model.ckpt-7", {"a/kernel": np.zeros((3, 4), "f")})
    for name in ("m.weights.h5", "model.ckpt-7"):
        done = holdfast("import", tmp_path / name, tmp_path / "run")
        assert done.exit_code == 2
        assert "give --model module:function" in done.output


def test_from_elsewhere_into_a_run_that_exists(tmp_path: Path) -> None:
    """A source under a URL is read, and comes after what the run has, of which nothing goes."""
    model = keras_functional()
    with CheckpointManager(training_state(keras_functional()), tmp_path / "run") as manager:
        for step in range(1, 8):
            manager.save(step, blocking=True)
    before = holdfast("ls", tmp_path / "run").output
    model.save(tmp_path / "m.keras")
    fsspec.filesystem("memory").pipe_file(f"{tmp_path}/m.keras", (tmp_path / "m.keras").read_bytes())
    done = holdfast("import", f"memory://{tmp_path}/m.keras", tmp_path / "run", "--step", 9)
    assert done.exit_code == 0, done.output
    after = holdfast("ls", tmp_path / "run").output
    assert all(line in after for line in before.splitlines() if "ckpt-" in line)
    shown = holdfast("show", f"{tmp_path / 'run'}@9").output
    assert "imported_from" in shown
    again = keras_functional()
    with CheckpointManager(training_state(again), tmp_path / "run") as manager:
        manager.restore_or_initialize()
        assert np.array_equal(predictions(again), predictions(model))
