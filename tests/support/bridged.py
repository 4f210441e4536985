"""Models of both Kerases in all three forms, and what each format predicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from click.testing import CliRunner, Result

from holdfast.bridges.model import weights_of
from holdfast.cli import main
from holdfast.keras import training_state

X = np.random.RandomState(0).randn(16, 3).astype(np.float32)
Y = X.sum(1, keepdims=True)
_NORMAL = ("gamma", "beta", "moving_mean", "moving_variance")


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.inner = [keras.layers.Dense(4, activation="relu", name="a"), keras.layers.BatchNormalization(name="b")]
        self.head = keras.layers.Dense(1, name="c")

    def call(self, x: Any, training: bool = False) -> Any:
        return self.head(self.inner[1](self.inner[0](x), training=training))


@tf_keras.saving.register_keras_serializable("tests")
class SubclassedOfTfKeras(tf_keras.Model):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.inner = [
            tf_keras.layers.Dense(4, activation="relu", name="a"),
            tf_keras.layers.BatchNormalization(name="b"),
        ]
        self.head = tf_keras.layers.Dense(1, name="c")

    def call(self, x: Any, training: bool = False) -> Any:
        return self.head(self.inner[1](self.inner[0](x), training=training))


def _functional(library: Any) -> Any:
    x = library.Input((3,))
    a = library.layers.Dense(4, activation="relu", name="a")(x)
    b = library.layers.BatchNormalization(name="b")(library.layers.Dropout(0.5, seed=1, name="d")(a))
    return library.Model(x, library.layers.Dense(1, name="c")(library.layers.Concatenate(name="e")([a, b])))


def _sequential(library: Any) -> Any:
    layers = library.layers
    first, last = layers.Dense(4, activation="relu", name="a"), layers.Dense(1, name="c")
    return library.Sequential([first, layers.BatchNormalization(name="b"), last])


def keras_functional() -> Any:
    return _functional(keras)


def keras_sequential() -> Any:
    return _built(_sequential(keras))


def keras_subclassed() -> Any:
    return _built(Subclassed(name="own"))


def tf_keras_functional() -> Any:
    return _functional(tf_keras)


def tf_keras_sequential() -> Any:
    return _built(_sequential(tf_keras))


def tf_keras_subclassed() -> Any:
    return _built(SubclassedOfTfKeras(name="own"))


MODELS: dict[str, Callable[[], Any]] = {
    f"{library} {form}": globals()[f"{library}_{form}"]
    for library in ("keras", "tf_keras")
    for form in ("functional", "sequential", "subclassed")
}


def library_of(name: str) -> Any:
    return tf_keras if name.startswith("tf_keras") else keras


def trained(name: str) -> Any:
    """A compiled model after two epochs."""
    model = MODELS[name]()
    model.compile("adam", "mse")
    model.fit(X, Y, epochs=2, verbose=0)
    return model


def predictions(model: Any) -> Any:
    return np.asarray(model(X, training=False))


def samples() -> Any:
    """What `--representative` takes."""
    yield from ([x[None]] for x in X)


def _built(model: Any) -> Any:
    model(X[:1])
    return model


def _by_weights(path: Path, name: str) -> Any:
    model = MODELS[name]()
    model.load_weights(str(path))
    return predictions(model)


def _by_loading(path: Path, name: str) -> Any:
    return predictions(library_of(name).models.load_model(str(path), compile=False))


def _by_checkpoint(path: Path, name: str) -> Any:
    model = MODELS[name]()
    prefix = tf.train.latest_checkpoint(str(path))
    training_state(model).restore(prefix).expect_partial()
    return predictions(model)


def _by_saved_model(path: Path, name: str) -> Any:
    loaded = tf.saved_model.load(str(path))
    return loaded.serve(X).numpy()


def _by_safetensors(path: Path, name: str) -> Any:
    from safetensors.numpy import load_file

    values, model = load_file(path), MODELS[name]()
    assert set(values) == {
        *(f"{at}/{part}" for at in "ac" for part in ("kernel", "bias")),
        *(f"b/{p}" for p in _NORMAL),
    }
    model.set_weights([values[name] for name, _ in weights_of(model)])
    return predictions(model)


def _by_onnx(path: Path, name: str) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {session.get_inputs()[0].name: X})[0]


def _by_litert(path: Path, name: str) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], X.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], X)
    interpreter.invoke()
    return interpreter.get_tensor(wanted["index"])


PREDICT: dict[str, Callable[[Path, str], Any]] = {
    "checkpoint": _by_checkpoint,
    "savedmodel": _by_saved_model,
    "weights.h5": _by_weights,
    "keras": _by_loading,
    "h5": _by_loading,
    "safetensors": _by_safetensors,
    "onnx": _by_onnx,
    "tflite": _by_litert,
}
"""What a format predicts for `X`, by the ecosystem's own readers. The second argument is the name of a model."""


def holdfast(*arguments: object) -> Result:
    """Run a command."""
    return CliRunner().invoke(main, [str(each) for each in arguments], prog_name="holdfast", catch_exceptions=False)


def by_function(name: str) -> list[str]:
    """The option that gives a command a model."""
    return ["--model", f"support.bridged:{name.replace(' ', '_')}"]


def _write_safetensors(model: Any, path: Path) -> None:
    from safetensors.tensorflow import save_file

    save_file({name: tf.convert_to_tensor(weight) for name, weight in weights_of(model)}, path)


def _write_checkpoint(model: Any, path: Path) -> None:
    tf.train.CheckpointManager(training_state(model), path, None).save(7)


WRITE: dict[str, Callable[[Any, Path], Any]] = {
    "checkpoint": _write_checkpoint,
    "savedmodel": lambda model, path: model.export(path),
    "weights.h5": lambda model, path: model.save_weights(path),
    "keras": lambda model, path: model.save(path),
    "h5": lambda model, path: model.save(path),
    "safetensors": _write_safetensors,
}
"""Writes a model in a format as people do without Holdfast."""
