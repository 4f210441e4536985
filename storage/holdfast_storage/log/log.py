"""The log, which decides everything: entry last+1 is made by exclusive create. See docs/design/001-log.md."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from holdfast_storage.errors import CheckpointDamaged, StorageError
from holdfast_storage.layout import LOG_FOLDER, log_entry, parse_log_entry
from holdfast_storage.log.entries import LARGEST_ENTRY, decode, encode
from holdfast_storage.log.pages import Pages
from holdfast_storage.pauses import pauses
from holdfast_storage.records import Entry
from holdfast_storage.store.base import NotCreated, Store
from holdfast_storage.whole import read_whole

BLOCK_DIGITS = 3
"""A block is the entries whose numbers differ only in this many last digits. An object store lists one per request."""

FEW = 20
"""Entries that are read one after the other on the way to the tail before a shorter way is taken."""


@dataclass(frozen=True, slots=True)
class Published:
    """The entry stands in its slot."""


@dataclass(frozen=True, slots=True)
class LostRace:
    """Another entry stands in the slot, for ever."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class NotPublished:
    """Nothing was made, and nothing of this call can appear later: there is no space, or no permission."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The entry may stand in the slot, or may still appear there. Only another entry in that slot can settle it."""

    reason: str


Outcome = Published | LostRace | NotPublished | Unknown


class Log:
    """The log of one run directory. Several threads may use it at once. What it remembers only saves work."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self._pages = Pages(store)
        self._is_tried = False

    def read(self, number: int) -> Entry | None:
        """Read the entry in a slot. Returns None if there is none, or only one that was never finished.

        Raises CheckpointDamaged if a finished entry, or a page of it, is not what was written, and InvalidRequest if a
        newer Holdfast wrote it.
        """
        name = log_entry(number)
        try:
            data = read_whole(self._store, name, LARGEST_ENTRY)
        except FileNotFoundError:
            return None
        entry = decode(data, f"{self._store.url}/{name}", self._pages.read)
        if entry is not None and entry.number != number:
            raise CheckpointDamaged(f"{self._store.url}/{name} holds entry {entry.number} of the log", object=name)
        return entry

    def tail(self, hint: int = -1) -> Entry | None:
        """Read the last entry. Returns None if the log is empty. Raises what `read` raises.

        hint: the number of an entry that is known to exist, which makes the search shorter.
        """
        if hint < 0:
            hint = self._close_to_the_tail()
        # An entry that was never finished is not there, and can only be the last.
        last = self.read(hint)
        if last is None and hint > 0:
            last = self.read(hint - 1) or self.read(self._by_names())
        steps = 0
        while last is not None and (following := self.read(last.number + 1)) is not None:
            last, steps = following, steps + 1
            if steps == FEW and (near := self._close_to_the_tail()) > last.number + 1:
                last = self.read(near) or self.read(near - 1) or last
        return last

    def _close_to_the_tail(self) -> int:
        """Return the number of an existing entry, or one more: not before the last one that listing the log would show.

        The log has no holes, so exact names find its last block, and only that block is listed. A mount may still deny
        a name that it was asked for too early. Then the search ends before it, and the listings lead on.
        """
        size = 10**BLOCK_DIGITS
        last = self._last_of(0)
        if last + 1 < size:
            return last
        block = _last(lambda block: self._is_there(block * size))
        while (last := max(last, self._last_of(block))) + 1 == (block + 1) * size:
            block += 1
        return last

    def _by_names(self) -> int:
        """Return the number of the last entry before any hole: what is listed beyond one is no part of the log."""
        return _last(self._is_there)

    def _is_there(self, number: int) -> bool:
        return self._store.size(log_entry(number)) is not None

    def _last_of(self, block: int) -> int:
        """Return the number of the last listed entry of a block, or of its first entry if none is listed."""
        first = block * 10**BLOCK_DIGITS
        start = log_entry(first).removeprefix(f"{LOG_FOLDER}/").removesuffix(".json")[:-BLOCK_DIGITS]
        listed = [parse_log_entry(name) for name in self._store.list(LOG_FOLDER, start)]
        return max((number for number in listed if number is not None), default=first)

    def is_protected(self, number: int) -> bool:
        """Return whether nobody can overwrite an entry, given the number of one: then not only the leader may add some.

        What a server does with conditions shows at a create. So the entry is created again, with its own bytes.
        """
        if not self._is_tried and not self._store.local and self._store.exclusive:
            name = log_entry(number)
            self._store.create(name, read_whole(self._store, name, LARGEST_ENTRY))
            self._is_tried = True
        return self._store.exclusive

    def publish(self, entry: Entry, deadline_s: float) -> Outcome:
        """Create an entry in the slot of its number.

        If the storage gives no definite answer, tries the same slot again for about `deadline_s` seconds. A slot that
        reads as empty settles nothing: the request may still arrive.
        """
        name = log_entry(entry.number)
        try:
            checkpoints, pages = self._pages.cut(entry.state.checkpoints)
            data = encode(entry, checkpoints)
        except ValueError as error:
            return NotPublished(f"{self._store.url}/{name} would be an entry that nobody reads: {error}")
        end = self._clock() + deadline_s
        tried = may_have_landed = False
        for pause in pauses():
            try:
                self._pages.keep(pages)  # before the entry that needs them, which may land at any time once it is sent
                tried = True
                if self._store.create(name, data):
                    return Published()
                reason = f"{self._store.url}/{name} is taken by an entry that cannot be read"
            except NotCreated as error:
                if not may_have_landed:
                    return NotPublished(str(error))
                reason = str(error)
            except StorageError as error:
                may_have_landed = tried
                reason = str(error)
            try:
                found = self.read(entry.number)
            except (StorageError, CheckpointDamaged) as error:
                found, reason = None, str(error)
            if found is not None:
                # Compare the whole entry: two processes that were restored from one may use the same ids.
                return Published() if found == entry else LostRace(found)
            if self._clock() >= end:
                return Unknown(reason) if tried else NotPublished(reason)
            self._sleep(min(pause, max(0.0, end - self._clock())))
        raise AssertionError("pauses never end")


def _last(is_there: Callable[[int], bool]) -> int:
    """Return the last number that is there. They begin with 0 and have no holes."""
    known, beyond = 0, 1
    while is_there(beyond):
        known, beyond = beyond, 2 * beyond
    while beyond - known > 1:
        middle = (known + beyond) // 2
        known, beyond = (middle, beyond) if is_there(middle) else (known, middle)
    return known
