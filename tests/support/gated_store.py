"""A store whose calls can be held up, and go on or fail when the test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from holdfast_storage.store.base import Store
from support.passing_store import PassingStore

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


class GatedStore(PassingStore):
    """A `Store` that passes every call on to another one, past the gate, if it is one that the gate is for."""

    def __init__(self, inner: Store, gate: Gate) -> None:
        super().__init__(inner)
        self._gate = gate

    def _call(self, verb: str, name: str, effect: Callable[[], T]) -> T:
        if verb == self._gate.verb and self._gate.part in name:
            self._gate.pass_through()
        return effect()
