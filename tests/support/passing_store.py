"""What store doubles have in common: every call goes on to another store, through one door."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable
from typing import TypeVar

from holdfast_storage.store.base import LARGEST, Buffer, Store

T = TypeVar("T")


class PassingStore(Store):
    """A `Store` that passes every call on to `inner`. Doubles change `_call`."""

    def __init__(self, inner: Store) -> None:
        self.url, self.parallel, self.block = inner.url, inner.parallel, inner.block
        self._inner = inner

    def create(self, name: str, data: Buffer, *, private: bool = False) -> bool:
        return self._call("create", name, lambda: self._inner.create(name, data, private=private))

    def write(self, name: str, chunks: Iterable[Buffer]) -> int:
        return self._call("write", name, lambda: self._inner.write(name, chunks))

    def replace(self, name: str, data: Buffer) -> None:
        return self._call("replace", name, lambda: self._inner.replace(name, data))

    def read(self, name: str, *, limit: int = LARGEST) -> bytes:
        return self._call("read", name, lambda: self._inner.read(name, limit=limit))

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        return self._call("read_into", name, lambda: self._inner.read_into(name, offset, buffer))

    def size(self, name: str) -> int | None:
        return self._call("size", name, lambda: self._inner.size(name))

    def list(self, folder: str = "", start: str = "") -> builtins.list[str]:
        return self._call("list", folder, lambda: self._inner.list(folder, start))

    def delete_folder(self, folder: str) -> None:
        return self._call("delete_folder", folder, lambda: self._inner.delete_folder(folder))

    def _call(self, verb: str, name: str, effect: Callable[[], T]) -> T:
        return effect()
