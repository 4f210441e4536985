"""Writes a model in one of the formats, by the ecosystem's own exporters, to a local path."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from holdfast.bridges import formats
from holdfast.bridges.formats import Format
from holdfast.bridges.model import Held, weights_of
from holdfast.scratch import scratch_folder
from holdfast_storage.errors import InvalidRequest

QUANTIZATIONS = ("none", "float16", "dynamic", "int8")


def check(held: Held, format: Format) -> None:
    """Raise InvalidRequest if a model cannot be written in a format."""
    if format is formats.H5 and not getattr(held.model, "inputs", None):
        raise InvalidRequest(
            "no Keras reads a subclassed model from .h5: take .weights.h5, .keras or .savedmodel", object=format.name
        )
    if format is formats.SAFETENSORS:
        names = [name for name, _ in weights_of(held.model)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InvalidRequest(f"several weights of the model are named {twice[0]}: .safetensors needs unique names")


def write(
    held: Held,
    format: Format,
    path: str,
    *,
    quantize: str = "none",
    representative: Callable[[], Any] | None = None,
) -> None:
    """Write a model to a path that ends in the format's suffix.

    quantize: one of `QUANTIZATIONS`, for TensorFlow Lite. `int8` quantizes weights and what layers compute, by the
        ranges that it finds with the inputs from `representative`; inputs and outputs of the model stay as they are.

    Raises InvalidRequest with the exporter's words if it cannot.
    """
    try:
        with _quietly():
            _write(held, format, path, quantize, representative)
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        library = "tf_keras" if held.of_tf_keras else "keras"
        raise InvalidRequest(f"this model of {library} could not be written as {format.name}: {why}") from error


def _write(held: Held, format: Format, path: str, quantize: str, representative: Callable[[], Any] | None) -> None:
    model = held.model
    match format:
        case formats.WEIGHTS:
            model.save_weights(path)
        case formats.KERAS | formats.H5:
            model.save(path)
        case formats.SAVED_MODEL:
            model.export(path)
        case formats.SAFETENSORS:
            from safetensors.numpy import save_file

            save_file({name: weight.numpy() for name, weight in weights_of(model)}, path, {"format": "tf"})
        case formats.ONNX if held.of_tf_keras:
            import tf2onnx

            (signature,), _ = model.save_spec()
            signature = tf.nest.flatten(signature)
            function = tf.function(lambda *inputs: model(inputs if len(inputs) > 1 else inputs[0], training=False))
            tf2onnx.convert.from_function(function, signature, output_path=path)
        case formats.ONNX:
            if inputs := getattr(model, "inputs", None):  # Keras asks for a model that has been called
                model(inputs[0] if isinstance(model, keras.Sequential) else model.input)
            model.export(path, format="onnx")
        case formats.TFLITE:
            with scratch_folder() as folder:
                model.export(folder)
                Path(path).write_bytes(_to_tflite(folder, quantize, representative))
        case _:
            raise AssertionError(format)


def _to_tflite(saved_model: str, quantize: str, representative: Callable[[], Any] | None) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model)
    if quantize != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        converter.representative_dataset = representative
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converted: bytes = converter.convert()
    return converted


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Exporters print what they have done, and warn of formats that their users have chosen."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
