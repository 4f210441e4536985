"""What a layer saves by methods of its own: `save_own_variables` and `save_assets`, with their `load_` counterparts.

Keras calls these to save and load a model, and lets a program's layers override them. What they save is kept as one
tensor of bytes, an uncompressed zip archive:

    assets/...            the files that `save_assets` writes
    variables/<key>.npy   each value that `save_own_variables` stores
    variables/<key>.is    instead, where that is a variable of the layer: its place in the layer's `variables`
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import tensorflow as tf

from holdfast import keras_internals as internals
from holdfast.scratch import scratch_folder
from holdfast.tensorflow_internals import Held, after_next, has_value

_ASSETS, _VARIABLES = "assets/", "variables/"


class Own(Held):
    """What a layer saves by methods of its own."""

    def __init__(self, layer: Any) -> None:
        super().__init__(f"what layer {layer.name} saves by methods of its own")
        self._layer = layer
        self._values: dict[str, bytes] = {}  # what is still to be loaded
        self._assets: dict[str, bytes] = {}

    @classmethod
    def of(cls, layer: Any) -> Own | None:
        return cls(layer) if _has_variables(layer) or _has_assets(layer) else None

    @property
    def is_empty(self) -> bool:
        return not self._saved()

    def tensors(self) -> dict[str, Any]:
        members, buffer = self._saved(), io.BytesIO()
        if members:
            with zipfile.ZipFile(buffer, "w") as archive:
                for name in sorted(members):
                    archive.writestr(zipfile.ZipInfo(name), members[name])  # without a time: equals stay equal
        with tf.device("CPU:0"):
            return {"archive": tf.constant(np.frombuffer(buffer.getvalue(), np.uint8))}

    def _saved(self) -> dict[str, bytes]:
        try:
            return {**self._saved_variables(), **self._saved_assets()}
        except Exception:
            if self._layer.built:
                raise
            return {}  # there is nothing yet, and its methods need not expect that

    def _saved_variables(self) -> dict[str, bytes]:
        if not _has_variables(self._layer):
            return {}
        store: dict[str, Any] = {}
        self._layer.save_own_variables(store)
        places = {id(variable): place for place, variable in enumerate(self._layer.variables)}
        found = {}
        for key, value in store.items():
            name = f"{_VARIABLES}{quote(str(key), safe='')}"
            if id(value) in places:
                found[f"{name}.is"] = str(places[id(value)]).encode()
            else:
                found[f"{name}.npy"] = _encoded(key, np.asarray(value))
        return found

    def _saved_assets(self) -> dict[str, bytes]:
        if not _has_assets(self._layer):
            return {}
        with scratch_folder() as folder:
            self._layer.save_assets(folder)
            files = [path for path in Path(folder).rglob("*") if path.is_file()]
            return {f"{_ASSETS}{path.relative_to(folder).as_posix()}": path.read_bytes() for path in files}

    def settle(self) -> None:
        """Load what was restored: variables once the layer has its own, assets at once. An error is not repeated."""
        restored, self.restored = self.restored, None
        if restored is not None:
            members = _members(restored["archive"].numpy().tobytes())
            self._values = {name: data for name, data in members.items() if name.startswith(_VARIABLES)}
            self._assets = {name: data for name, data in members.items() if name.startswith(_ASSETS)}
        if self._values and not (self._layer.built and all(map(has_value, self._layer.variables))):
            after_next(self._layer, "build", self.settle)
        elif self._values:
            members, self._values = self._values, {}
            self._layer.load_own_variables(dict(map(self._decoded, members, members.values())))
        if self._assets:
            members, self._assets = self._assets, {}
            with scratch_folder() as folder:
                for name, data in members.items():
                    path = Path(folder, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                self._layer.load_assets(str(Path(folder, _ASSETS)))

    def _decoded(self, name: str, data: bytes) -> tuple[str, Any]:
        key, _, kind = name.removeprefix(_VARIABLES).rpartition(".")
        if kind == "is":
            return unquote(key), np.asarray(self._layer.variables[int(data)])
        return unquote(key), np.load(io.BytesIO(data), allow_pickle=False)


def _has_variables(layer: Any) -> bool:
    return internals.has_own(layer, "save_own_variables", "load_own_variables")


def _has_assets(layer: Any) -> bool:
    return internals.has_own(layer, "save_assets", "load_assets")


def _encoded(key: Any, value: Any) -> bytes:
    if value.dtype.kind == "V":  # bfloat16 and the like, which would come back as something else
        raise ValueError(f"it stores {key} with the dtype {value.dtype}, which numpy files do not know: convert it")
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _members(data: bytes) -> dict[str, bytes]:
    """Read an archive. Raises ValueError if nobody here wrote it: it may lead elsewhere, or be of any size."""
    if not data:
        return {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        for each in members:
            if each.compress_type != zipfile.ZIP_STORED or {"..", ""} & set(each.filename.split("/")):
                raise ValueError(f"its archive has a member that Holdfast does not write: {each.filename!r:.100}")
        if sum(each.file_size for each in members) > len(data):
            raise ValueError("the members of its archive are larger than the archive")
        return {each.filename: archive.read(each) for each in members}
