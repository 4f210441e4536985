"""A store that goes wrong at chosen calls, in the ways in which real ones do."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypeVar

from holdfast_storage.errors import StorageError
from holdfast_storage.store.base import Buffer, NotCreated, Store

T = TypeVar("T")

Fault = Literal[
    "fail",  # no effect, and an error that does not say so
    "refuse",  # no effect, and an error that says so (`create` alone)
    "lose",  # the effect, but an error instead of the answer
    "delay",  # an error now, and the effect only with a later `land()`
]


class FaultyStore:
    """A `Store` that passes every call on to another one, but for the calls that `faults` names.

    faults: (verb, how many calls of that verb came before) to what happens.
    calls: every call made, as (verb, name).
    """

    def __init__(self, inner: Store, faults: Mapping[tuple[str, int], Fault] | None = None) -> None:
        self.url = inner.url
        self.calls: list[tuple[str, str]] = []
        self._inner = inner
        self._faults = dict(faults or {})
        self._counts: dict[str, int] = {}
        self._delayed: list[Callable[[], object]] = []

    def land(self) -> None:
        """What was delayed arrives at the storage now."""
        delayed, self._delayed = self._delayed, []
        for effect in delayed:
            effect()

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
        count = self._counts.get(verb, 0)
        self._counts[verb] = count + 1
        self.calls.append((verb, name))
        fault = self._faults.get((verb, count))
        if fault is None:
            return effect()
        if fault == "lose":
            effect()
        elif fault == "delay":
            self._delayed.append(effect)
        error = NotCreated if fault == "refuse" else StorageError
        raise error(f"Could not {verb} {self.url}/{name}: {fault}", object=name)
