"""The architecture of a checkpoint's Keras models: what rebuilds them without the program that made them.

It is Keras's own configuration, as JSON, and no code: a model with a class, function or lambda that is not Keras's own
has none. What Keras can make of a configuration has led to foreign code more than once. So `check` allows only what is
listed here, when it is written as when it is read. See docs/design/031-bridges.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from holdfast_storage.kinds import FORMAT
from holdfast_storage.spec import Unexpected, fields, free, listed, load, one_of, text

NEWEST = 1
LARGEST = 16 << 20
"""The most bytes of an architecture. Beyond that, a model has a vocabulary as an argument of a layer."""

_KERASES = ("keras", "tf_keras")
_MODULES = frozenset(
    f"keras{module}"
    for module in (
        *("", ".activations", ".constraints", ".dtype_policies", ".initializers", ".layers", ".mixed_precision"),
        *(".losses", ".metrics", ".models", ".optimizers", ".optimizers.schedules"),
        *(".quantizers", ".random", ".regularizers"),
        *(".src.models.functional", ".src.models.sequential"),
    )
) | {"tf_keras.src.engine.functional", "tf_keras.src.engine.sequential"}
_OPERATIONS = "keras.src.ops."
_PLAIN = frozenset(f"__{kind}__" for kind in ("bytes", "ellipsis", "keras_tensor", "numpy", "slice", "tensor"))
_CLASS = re.compile(r"[A-Z][A-Za-z0-9_]*")  # Keras's functions begin with a small letter
_LEAD_ELSEWHERE = frozenset(
    ("FlaxLayer", "JaxLayer", "Lambda", "SlicingOpLambda", "TFOpLambda", "TFSMLayer", "TorchModuleWrapper", "function")
)
"""Of Keras's own: what runs code from its configuration, calls any function of TensorFlow, or reads other files."""

_DOCUMENT = fields(
    {
        "format": FORMAT,
        "models": listed(
            fields({"path": listed(text(1024), 8), "keras": one_of(*_KERASES), "version": text(64), "config": free}), 64
        ),
    }
)


@dataclass(frozen=True, slots=True)
class Model:
    """One model of a checkpoint."""

    path: tuple[str, ...]  # attributes that lead from the `tf.train.Checkpoint` to it
    keras: str  # "keras" or "tf_keras"
    version: str  # of that Keras
    config: Any


def encode(models: list[Model]) -> bytes | None:
    """Encode the models of a checkpoint whose configurations are Keras's own; None if there are none."""
    kept = []
    for model in models:
        try:
            check(model.config)
        except Unexpected:
            continue
        kept.append({**asdict(model), "path": list(model.path)})
    data = json.dumps({"format": NEWEST, "models": kept}).encode() + b"\n"
    return data if kept and len(data) <= LARGEST else None


def decode(data: bytes) -> list[Model]:
    """Decode what `encode` has made. Raises Unexpected for anything else, and for what is not Keras's own."""
    content = load(data)
    _DOCUMENT(content)
    if content["format"] > NEWEST:
        raise Unexpected(f"was written by a newer Holdfast (format {content['format']}, known here {NEWEST})")
    for each in content["models"]:
        check(each["config"])
    return [Model(tuple(e["path"]), e["keras"], e["version"], e["config"]) for e in content["models"]]


def check(config: Any, *, whole: bool = True) -> None:
    """Raise Unexpected unless a configuration names nothing but what is Keras's own and harmless.

    whole: every class names its module. It does not in old files, of which Keras looks only for classes that it knows.
    """
    for each in _dictionaries(config):
        if isinstance(each.get("vocabulary"), str):
            raise Unexpected("reads its vocabulary from a file")
        if "class_name" not in each:
            continue
        name, module = each["class_name"], each.get("module")
        if not isinstance(name, str):
            raise Unexpected(f"has {repr(name)[:100]} as the name of a class")
        if module is None and name in _PLAIN:
            continue
        known = isinstance(module, str) and (module in _MODULES or module.startswith(_OPERATIONS))
        old = module is None and not whole
        if not (known or old) or not _CLASS.fullmatch(name) or name in _LEAD_ELSEWHERE:
            raise Unexpected(f"has {name!r} of {module!r}, which is not a harmless part of Keras")


def _dictionaries(config: Any) -> Iterator[dict[str, Any]]:
    queue = [config]
    while queue:
        each = queue.pop()
        if isinstance(each, dict):
            yield each
            queue += each.values()
        elif isinstance(each, (list, tuple)):
            queue += each
