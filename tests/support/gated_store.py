"""A store whose calls can be held up, and go on or fail when the test says so."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from holdfast_storage.store.base import Buffer, Store

T = TypeVar("T")


class Gate:
    """Holds up calls of one verb on objects whose names hold a text.

    reached: set when a call has come to it. `open()` lets it go on, `fail()` lets it raise instead.
    """

    def __init__(self, verb: str, part: str) -> None:
        self.verb, self.part = verb, part
        self.reached = threading.Event()
        self._opened = threading.Event()
        self._error: Exception | None = None

    def open(self) -> None:
        self._opened.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._opened.set()

    def pass_through(self) -> None:
        self.reached.set()
        assert self._opened.wait(60.0), "nobody has opened the gate"
        if self._error is not None:
            raise self._error


class GatedStore:
    """A `Store` that passes every call on to another one, past the gate, if it is one that the gate is for."""

    def __init__(self, inner: Store, gate: Gate) -> None:
        self.url = inner.url
        self._inner = inner
        self._gate = gate

    def create(self, name: str, data: Buffer) -> bool:
        return self._call("create", name, lambda: self._inner.create(name, data))

    def write(self, name: str, chunks: Iterable[Buffer]) -> int:
        return self._call("write", name, lambda: self._inner.write(name, chunks))

    def replace(self, name: str, data: Buffer) -> None:
        return self._call("replace", name, lambda: self._inner.replace(name, data))

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._call("read", name, lambda: self._inner.read(name, offset, length))

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        return self._call("read_into", name, lambda: self._inner.read_into(name, offset, buffer))

    def size(self, name: str) -> int | None:
        return self._call("size", name, lambda: self._inner.size(name))

    def list(self, folder: str = "") -> builtins.list[str]:
        return self._call("list", folder, lambda: self._inner.list(folder))

    def delete_folder(self, folder: str) -> None:
        return self._call("delete_folder", folder, lambda: self._inner.delete_folder(folder))

    def _call(self, verb: str, name: str, effect: Callable[[], T]) -> T:
        if verb == self._gate.verb and self._gate.part in name:
            self._gate.pass_through()
        return effect()
