"""The architecture of models in a checkpoint: what may stand in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast_storage.checkpoint.architecture import Model, decode, encode
from holdfast_storage.spec import Unexpected

DENSE = {"module": "keras.layers", "class_name": "Dense", "config": {"units": 1, "activation": "relu"}}


def model(*layers: Any) -> dict[str, Any]:
    return {"module": "keras", "class_name": "Sequential", "config": {"layers": list(layers)}}


def document(config: Any, **changes: Any) -> bytes:
    each = {"path": ["model"], "keras": "keras", "version": "3", "config": config}
    return json.dumps({"format": 1, "models": [each], **changes}).encode()


def layer(module: Any, name: Any, /, **config: Any) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": config}


HOSTILE = {
    "a module of its own": layer("os", "system"),
    "no module": layer(None, "Evil"),
    "code": layer(None, "__lambda__", value="4wAAAA=="),
    "a Lambda": layer("keras.layers", "Lambda", function="x"),
    "a function": {"module": "builtins", "class_name": "function", "config": "exec"},
    "a function of Keras": {"module": "keras", "class_name": "function", "config": "get_file"},
    "a function that is no layer": layer("keras.utils", "get_file", origin="http://a"),
    "any function of TensorFlow": layer("tf_keras.src.layers.core.tf_op_layer", "TFOpLambda", function="io.write_file"),
    "a SavedModel": layer("keras.layers", "TFSMLayer", filepath="/evil"),
    "a pickle": layer("keras.layers", "TorchModuleWrapper", module="gASV"),
    "a file of the host": layer("keras.layers", "StringLookup", vocabulary="/etc/passwd"),
    "a type by its module": layer(None, "__typespec__", module="os"),
    "a module that is no text": layer(["keras"], "Dense"),
    "a name that is no text": layer("keras.layers", ["Dense"]),
    "neither is text": layer(None, ["Dense"]),
    "a module that only begins so": layer("keras.layersx", "Dense"),
    "a function in the place of a class": layer("keras.models", "load_model", filepath="/evil"),
    "a function by a dotted name": layer("keras", "utils.get_file", origin="http://a"),
    "a class by a dotted name": layer("keras", "layers.Lambda", function="x"),
    "an inner module": layer("keras.src.utils.file_utils", "get_file"),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("deep", [False, True])
def test_only_what_is_known_to_be_harmless(kind: str, deep: bool) -> None:
    """What leads to code, or to files of the host, is refused when it is read, and not kept when it is written. Guards
    against a checkpoint that takes over whoever exports it."""
    hostile = model({**DENSE, "config": {"units": 1, "inner": [[HOSTILE[kind]]]}} if deep else HOSTILE[kind])
    with pytest.raises(Unexpected):
        decode(document(hostile))
    assert encode([Model(("model",), "keras", "3", hostile)]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"\xff", b'{"format": 1}', document(model(), format=0), document(model(), format=2),
        document([]), document(model(), models={}), document(model()).replace(b'"keras"', b'"torch"', 1),
        b'{"format": 1, "models": ' + b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_architecture(data: bytes) -> None:
    """What is not an architecture is refused. Guards against an error that says nothing, or none."""
    with pytest.raises(Unexpected):
        decode(data)


def test_there_and_back() -> None:
    """What is kept comes back; of several models, those that are Keras's own."""
    kept = Model(("model",), "tf_keras", "2.21.0", model(DENSE))
    data = encode([kept, Model(("other",), "keras", "3", model(HOSTILE["code"]))])
    assert data is not None
    assert decode(data) == [kept]
