"""A run directory on anything else that fsspec reaches: SFTP, WebDAV, HDFS, SMB, other object stores, and memory.

fsspec's general interface has no exclusive create. Here a lock among the stores of this process makes one. For
`memory://` that is all that is needed. Elsewhere it is enough as long as there is only one coordinator.
"""

from __future__ import annotations

import builtins
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import fsspec
from fsspec.registry import available_protocols

from holdfast_storage.errors import HoldfastError, InvalidRequest, StorageError
from holdfast_storage.layout import check_relative
from holdfast_storage.logger import logger
from holdfast_storage.printable import printable
from holdfast_storage.store.base import LARGEST, UNPROTECTED, Buffer, Store, check_process, creating, too_large
from holdfast_storage.store.url import split
from holdfast_storage.told import CAUSE, fit, told

log = logger("holdfast.storage")

_DELETERS = 20  # that may meet in one folder
_warned: set[str] = set()  # URLs


class FsspecStore(Store):
    """A `Store` over an fsspec file system."""

    parallel = 4
    block = 8 << 20

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        """url: is normalised."""
        self.url = url
        self._process = os.getpid()
        self._creating = creating(url)
        protocol, _ = split(url)
        self._in_memory = protocol == "memory"
        try:
            kind = fsspec.get_filesystem_class(protocol)
        except ValueError:
            known = ", ".join(sorted({"s3", "gs", "az", *available_protocols()}))
            raise InvalidRequest(
                f"{url} cannot be used: {protocol}:// is not known. Local paths are, and: {known}", object=url
            ) from None
        # A connection, with what is built on it, is rarely made for several threads.
        shared = kind.async_impl or protocol == "memory"
        self._turn: AbstractContextManager[Any] = nullcontext() if shared else threading.RLock()
        self._root = str(kind._strip_protocol(url)).rstrip("/")
        self._folders: set[str] = set()  # that were made
        with self._naming("open", ""):
            self._fs = kind(**{**kind._get_kwargs_from_urls(url), **storage_options, "skip_instance_cache": True})
        if not self.exclusive and url not in _warned:
            _warned.add(url)
            log.warning("%s: %s:// has no atomic create. %s", url, protocol, UNPROTECTED)

    @property
    def exclusive(self) -> bool:
        return self._in_memory

    def create(self, name: str, data: Buffer, *, private: bool = False) -> bool:
        with self._naming("create", name) as path, self._creating:
            if self._info(path) is not None:
                return False
            self._make_folder(path)
            self._fs.pipe_file(path, bytes(data))
            return True

    def write(self, name: str, chunks: Iterable[Buffer]) -> int:
        # Chunk by chunk, so that a coordinator in this process need not wait for all of it.
        with self._naming("write", name, turn=nullcontext()) as path:
            with self._turn:
                if self._info(path) is not None:
                    full = self._full(name)
                    raise StorageError(f"Could not write {full}: it exists already", object=full)
                self._make_folder(path)
                file = self._fs.open(path, "wb")
            size = 0
            try:
                for chunk in chunks:
                    view = memoryview(chunk).cast("B")
                    size += len(view)
                    with self._turn:
                        file.write(view)
            finally:
                with self._turn:
                    file.close()
            return size

    def replace(self, name: str, data: Buffer) -> None:
        with self._naming("replace", name) as path:
            self._make_folder(path)
            self._fs.pipe_file(path, bytes(data))

    def read(self, name: str, *, limit: int = LARGEST) -> bytes:
        data = self._range(name, 0, limit + 1)
        if len(data) > limit:
            raise too_large(self._full(name), limit)
        return data

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        data = self._range(name, offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def size(self, name: str) -> int | None:
        with self._naming("look at", name) as path:
            info = self._info(path)
            return int(info["size"]) if info is not None and info["type"] == "file" else None

    def list(self, folder: str = "", start: str = "") -> builtins.list[str]:
        try:
            with self._naming("list", folder, may_miss=True) as path:
                self._fs.invalidate_cache()
                found = self._fs.ls(path, detail=True)
        except FileNotFoundError:
            return []
        inside = [e for e in found if str(e["name"]).rstrip("/") != path]  # `ls` of an object names that object
        names = (str(e["name"]).rstrip("/").rpartition("/")[2] + "/" * (e["type"] == "directory") for e in inside)
        return sorted(name for name in names if name.startswith(start))

    def delete_folder(self, folder: str) -> None:
        with self._naming("delete", folder) as path:
            self._folders = {each for each in self._folders if not f"{each}/".startswith(f"{path}/")}
            for _ in range(_DELETERS):
                if self._info(path) is None:
                    return
                with suppress(FileNotFoundError):  # somebody else is deleting, too: look again at what is left
                    self._fs.rm(path, recursive=True)
                    return

    def _range(self, name: str, offset: int, length: int) -> bytes:
        with self._naming("read", name, may_miss=True) as path:
            return bytes(self._fs.cat_file(path, offset, offset + length))

    def _info(self, path: str) -> Mapping[str, Any] | None:
        """Return what is there now. fsspec's `exists` would call everything missing that it cannot read."""
        self._fs.invalidate_cache()
        try:
            info: Mapping[str, Any] = self._fs.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return info

    def _make_folder(self, path: str) -> None:
        """Make the folder of an object, if the backend has folders."""
        folder = path.rpartition("/")[0]
        if folder not in self._folders:
            with suppress(Exception):  # the object itself will show it
                self._fs.makedirs(folder, exist_ok=True)
            self._folders.add(folder)

    def _full(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    @contextmanager
    def _naming(
        self, verb: str, name: str, *, may_miss: bool = False, turn: AbstractContextManager[Any] | None = None
    ) -> Iterator[str]:
        """Yield the path of an object, and turn whatever the backend raises into a StorageError with the full URL.

        may_miss: FileNotFoundError is an answer, and stays one.
        turn: the lock under which the path is used; default: one lock for all.
        """
        check_process(self._process, self.url)
        path = f"{self._root}/{check_relative(name)}" if name or verb not in ("list", "open") else self._root
        try:
            with turn or self._turn:
                yield path
        except HoldfastError:
            raise
        except Exception as error:
            full = self._full(name)
            if may_miss and isinstance(error, FileNotFoundError | NotADirectoryError):
                raise FileNotFoundError(printable(f"{full} is missing")) from None
            raise StorageError(f"Could not {verb} {full}: {told(error)}", object=full) from fit(error, CAUSE)
