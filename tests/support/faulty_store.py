"""A store that goes wrong at chosen calls, in the ways in which real ones do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from holdfast_storage.errors import StorageError
from holdfast_storage.store.base import NotCreated, Store
from support.passing_store import PassingStore

T = TypeVar("T")

Fault = Literal[
    "fail",  # no effect, and an error that does not say so
    "refuse",  # no effect, and an error that says so (`create` alone)
    "lose",  # the effect, but an error instead of the answer
    "delay",  # an error now, and the effect only with a later `land()`
]


class FaultyStore(PassingStore):
    """A `Store` that passes every call on to another one, but for the calls that `faults` names.

    faults: (verb, how many calls of that verb came before) to what happens.
    calls: every call made, as (verb, name).
    """

    def __init__(self, inner: Store, faults: Mapping[tuple[str, int], Fault] | None = None) -> None:
        super().__init__(inner)
        self.calls: list[tuple[str, str]] = []
        self._faults = dict(faults or {})
        self._counts: dict[str, int] = {}
        self._delayed: list[Callable[[], object]] = []

    def land(self) -> None:
        """Let arrive at the storage what was delayed."""
        delayed, self._delayed = self._delayed, []
        for effect in delayed:
            effect()

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
