"""What is imported: a file or folder under any URL that fsspec knows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import fsspec

from holdfast.bridges.formats import CHECKPOINT, FORMATS, ONNX, SAVED_MODEL, TFLITE, Format, format_of
from holdfast.scratch import scratch_folder
from holdfast_storage.errors import InvalidRequest, StorageError
from holdfast_storage.layout import index_object
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.stock import state_file
from holdfast_storage.store import Store, open_store
from holdfast_storage.store.url import shown, split

IMPORTED = tuple(each for each in FORMATS if each not in (ONNX, TFLITE))

_CHUNK = 8 << 20


class Source:
    """A file or folder to import.

    Attributes:
        format: what it is, by `name`, else by its suffix, else by what is there: a SavedModel or a checkpoint.

    Raises InvalidRequest if nothing is there that can be imported.
    """

    def __init__(self, url: str, name: str | None = None) -> None:
        self.url = shown(url)
        protocol, path = split(url)
        try:
            self._fs, self._path = fsspec.core.url_to_fs(os.path.abspath(path) if protocol == "file" else url)
        except (ImportError, ValueError) as error:
            raise InvalidRequest(f"{self.url} cannot be used: {error}", object=self.url) from error
        self._local = protocol == "file"
        self.format = self._format(url, name)
        if self.format is not CHECKPOINT and not self._exists(self._path):
            raise InvalidRequest(f"{self.url} is not there", object=self.url)

    def checkpoint(self) -> tuple[Store, CheckpointRecord]:
        """Return the TensorFlow checkpoint that a prefix names, or the newest of a folder."""
        prefix = self._whole(self._path).removesuffix(".index")
        if self._exists(index_object(prefix)):
            folder, _, name = prefix.rpartition("/")
            return open_store(folder), state_file.stock_record(name, 0.0)
        store = open_store(prefix)
        found = state_file.stock_checkpoints(store)
        if not found:
            told = f"{self.url} is no TensorFlow checkpoint: no index of that name is there, and no folder with one"
            raise InvalidRequest(told, object=self.url)
        return store, found[-1]

    def variables(self) -> tuple[Store, CheckpointRecord]:
        """Return the checkpoint inside of a SavedModel."""
        folder = f"{self._whole(self._path).rstrip('/')}/variables"
        return open_store(folder), CheckpointRecord("variables", 0, 0.0, stock=True)

    @contextmanager
    def file(self, progress: Callable[[int], None]) -> Iterator[str]:
        """Yield a local path of the file, which ends in the same suffix."""
        if self._local:
            yield self._path
            return
        with scratch_folder() as folder:
            local = os.path.join(folder, os.path.basename(self._path))
            try:
                with self._fs.open(self._path, "rb") as source, open(local, "wb") as sink:
                    while chunk := source.read(_CHUNK):
                        sink.write(chunk)
                        progress(len(chunk))
            except OSError as error:
                raise StorageError(f"Could not read {self.url}: {error}", object=self.url) from error
            yield local

    def size(self) -> int:
        """Return the bytes of the file; 0 if it is none."""
        return int(self._fs.size(self._path) or 0) if self._fs.isfile(self._path) else 0

    def _format(self, url: str, name: str | None) -> Format:
        try:
            return format_of(url, name, IMPORTED)
        except InvalidRequest:
            if name is not None or url.lower().endswith((ONNX.suffix, TFLITE.suffix)):
                raise
        return SAVED_MODEL if self._exists(f"{self._path.rstrip('/')}/saved_model.pb") else CHECKPOINT

    def _whole(self, path: str) -> str:
        return path if self._local else str(self._fs.unstrip_protocol(path))

    def _exists(self, path: str) -> bool:
        try:
            return bool(self._fs.exists(path))
        except OSError as error:
            raise StorageError(f"Could not look at {self.url}: {error}", object=self.url) from error


def described(source: Source) -> dict[str, Any]:
    """Return what the manifest of an imported step says of where it is from."""
    return {"imported_from": source.url, "imported_format": source.format.name}
