"""A run directory on anything that fsspec reaches. So far `memory://`, for tests and trials in one process."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from holdfast_storage.errors import HoldfastError, StorageError
from holdfast_storage.layout import check_relative
from holdfast_storage.store.base import Buffer

# fsspec's memory file system checks, then writes: what makes a create exclusive is this, among all stores of a process.
_EXCLUSIVE = threading.Lock()


class FsspecStore:
    """A `Store` over an fsspec file system whose objects appear whole."""

    def __init__(self, url: str, fs: Any) -> None:
        """fs: the file system that `url`, normalised, belongs to."""
        self.url = url
        self._fs = fs
        self._root = str(fs._strip_protocol(url))

    def create(self, name: str, data: Buffer) -> bool:
        return self._put_new("create", name, bytes(data))

    def write(self, name: str, chunks: Iterable[Buffer]) -> int:
        data = b"".join(chunks)
        if not self._put_new("write", name, data):
            raise StorageError(f"Could not write {self._full(name)}: it is there already", object=self._full(name))
        return len(data)

    def replace(self, name: str, data: Buffer) -> None:
        with self._naming("replace", name):
            self._fs.pipe_file(self._path(name), bytes(data))

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        with self._naming("read", name):
            return bytes(self._fs.cat_file(self._path(name), offset, None if length is None else offset + length))

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        data = self.read(name, offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def size(self, name: str) -> int | None:
        try:
            with self._naming("look at", name):
                info = self._fs.info(self._path(name))
        except FileNotFoundError:
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def list(self, folder: str = "") -> builtins.list[str]:
        path = self._path(folder) if folder else self._root
        try:
            with self._naming("list", folder):
                found = self._fs.ls(path, detail=True)
        except FileNotFoundError:
            return []
        if [entry["name"] for entry in found] == [path]:  # `ls` of an object names that object
            return []
        return sorted(str(entry["name"]).rpartition("/")[2] + "/" * (entry["type"] == "directory") for entry in found)

    def delete_folder(self, folder: str) -> None:
        try:
            with self._naming("delete", folder):
                self._fs.rm(self._path(folder), recursive=True)
        except FileNotFoundError:
            return

    def _put_new(self, verb: str, name: str, data: bytes) -> bool:
        path = self._path(name)
        with _EXCLUSIVE, self._naming(verb, name):
            if self._fs.exists(path):
                return False
            self._fs.pipe_file(path, data)
            return True

    def _path(self, name: str) -> str:
        return f"{self._root}/{check_relative(name)}"

    def _full(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    @contextmanager
    def _naming(self, verb: str, name: str) -> Iterator[None]:
        """Turn whatever a backend raises into a StorageError with the full URL; missing stays FileNotFoundError."""
        try:
            yield
        except (FileNotFoundError, HoldfastError):
            raise
        except Exception as error:
            full = self._full(name)
            raise StorageError(f"Could not {verb} {full}: {error}", object=full) from error
