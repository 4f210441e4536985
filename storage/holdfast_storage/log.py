"""The log that decides: entries made by exclusive create of last+1. See docs/design/001-log.md."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from holdfast_storage.records import Entry
from holdfast_storage.store.base import Store


@dataclass(frozen=True, slots=True)
class Published:
    """The entry stands in its slot."""


@dataclass(frozen=True, slots=True)
class LostRace:
    """Another entry stands in the slot, and always will."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class NotPublished:
    """Nothing was made, and nothing of this call can appear any more: no space, no permission."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The entry may stand in the slot, or may still appear there. Only another entry in that slot can settle it."""

    reason: str


Outcome = Published | LostRace | NotPublished | Unknown


def encode(entry: Entry) -> bytes:
    raise NotImplementedError


def decode(data: bytes, name: str) -> Entry | None:
    raise NotImplementedError


class Log:
    """The log of one run directory. Stateless: may be used from several threads."""

    def __init__(
        self, store: Store, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        raise NotImplementedError

    def tail(self, hint: int = -1) -> Entry | None:
        """The last entry, None if there is none. `hint`: number of an entry that is known to be there."""
        raise NotImplementedError

    def read(self, number: int) -> Entry | None:
        """The entry in a slot, None if there is none (or one that was never finished)."""
        raise NotImplementedError

    def publish(self, entry: Entry, deadline_s: float) -> Outcome:
        """Put an entry into its slot; tries for at most about `deadline_s` seconds where the storage gives no definite answer."""
        raise NotImplementedError
