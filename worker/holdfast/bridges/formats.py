"""The formats that a checkpoint is exported to and imported from, by the suffixes of their names."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast_storage.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Format:
    """A format of files."""

    name: str
    suffix: str = ""  # empty: only its name says so
    packages: tuple[str, ...] = ()  # what it needs beside TensorFlow and Keras, by the names to import
    is_folder: bool = False


CHECKPOINT = Format("checkpoint", is_folder=True)
SAVED_MODEL = Format("savedmodel", ".savedmodel", is_folder=True)
WEIGHTS = Format("weights.h5", ".weights.h5", ("h5py",))
KERAS = Format("keras", ".keras", ("h5py",))
H5 = Format("h5", ".h5", ("h5py",))
TFLITE = Format("tflite", ".tflite")
ONNX = Format("onnx", ".onnx", ("onnx", "tf2onnx"))
SAFETENSORS = Format("safetensors", ".safetensors", ("safetensors",))

FORMATS = (CHECKPOINT, SAVED_MODEL, WEIGHTS, KERAS, H5, TFLITE, ONNX, SAFETENSORS)
"""In the order of the suffixes: `.weights.h5` goes before `.h5`."""


def format_of(url: str, name: str | None, formats: Sequence[Format] = FORMATS) -> Format:
    """Return the format of this name, or else that of a URL's suffix. Raises InvalidRequest if neither says one."""
    for each in formats:
        if each.name == name or (name is None and each.suffix and url.rstrip("/").lower().endswith(each.suffix)):
            return each
    suffixes = ", ".join(each.suffix for each in formats if each.suffix)
    names = ", ".join(each.name for each in formats)
    raise InvalidRequest(
        f"{url} does not say its format: let it end in {suffixes}, or give --format ({names})", object=url
    )


def check_packages(format: Format) -> None:
    """Raise InvalidRequest if a package is missing that a format needs."""
    missing = [each for each in format.packages if importlib.util.find_spec(each) is None]
    if missing:
        raise InvalidRequest(
            f"{format.name} needs {' and '.join(missing)}, not installed here: pip install holdfast[export]"
        )
