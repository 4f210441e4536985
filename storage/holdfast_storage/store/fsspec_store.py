"""A run directory on anything that fsspec reaches. So far `memory://`, for tests and trials in one process."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from holdfast_storage.errors import StorageError
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
        with self._naming("replace", name) as path:
            self._fs.pipe_file(path, bytes(data))

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        with self._naming("read", name, may_miss=True) as path:
            return bytes(self._fs.cat_file(path, offset, None if length is None else offset + length))

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        data = self.read(name, offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def size(self, name: str) -> int | None:
        try:
            with self._naming("look at", name, may_miss=True) as path:
                info = self._fs.info(path)
        except FileNotFoundError:
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def list(self, folder: str = "") -> builtins.list[str]:
        try:
            with self._naming("list", folder, may_miss=True) as path:
                found = self._fs.ls(path, detail=True)
        except FileNotFoundError:
            return []
        if [entry["name"] for entry in found] == [path]:  # `ls` of an object names that object
            return []
        return sorted(str(entry["name"]).rpartition("/")[2] + "/" * (entry["type"] == "directory") for entry in found)

    def delete_folder(self, folder: str) -> None:
        try:
            with self._naming("delete", folder, may_miss=True) as path:
                self._fs.rm(path, recursive=True)
        except FileNotFoundError:
            return

    def _put_new(self, verb: str, name: str, data: bytes) -> bool:
        with _EXCLUSIVE, self._naming(verb, name) as path:
            if self._fs.exists(path):
                return False
            self._fs.pipe_file(path, data)
            return True

    def _full(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    @contextmanager
    def _naming(self, verb: str, name: str, *, may_miss: bool = False) -> Iterator[str]:
        """The path of an object; turns whatever the backend raises into a StorageError with the full URL.

        may_miss: FileNotFoundError is an answer, and stays itself.
        """
        path = f"{self._root}/{check_relative(name)}" if name or verb != "list" else self._root
        try:
            yield path
        except Exception as error:
            if isinstance(error, FileNotFoundError) and may_miss:
                raise
            raise StorageError(f"Could not {verb} {self._full(name)}: {error}", object=self._full(name)) from error
