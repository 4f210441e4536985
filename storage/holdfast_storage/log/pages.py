"""Pages keep a log entry small, however many checkpoints there are. See docs/design/001-log.md.

Where the list of checkpoints is cut into pages follows from the list alone. So every writer cuts it the same way, and
no page is ever written again with other borders. The hash of a checkpoint's prefix gives it a *level*: one in 16 has at
least level 1, one in 256 level 2, one in 4,096 level 3. What lies between two checkpoints of one level, the latter
included, is a page. The largest possible pages are taken. What is before the first and after the last checkpoint of a
level is cut by the level below, and in the end stands in the entry itself. So an append seldom makes a page, a removal
at the front makes none that has not been made before, and a change in the middle makes one.

Checkpoints that are kept for ever come before those that retention removes. So they are cut as a list of their own.
"""

from __future__ import annotations

import hashlib
import os
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from weakref import WeakKeyDictionary

from holdfast_storage.errors import CheckpointDamaged
from holdfast_storage.lag import Wait, holds
from holdfast_storage.layout import page_object
from holdfast_storage.log.entries import LARGEST_PAGE, Records, decode_page, encode_page, page_name
from holdfast_storage.parallel import in_parallel
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store.base import Store
from holdfast_storage.whole import read_whole

FEWEST = 64
"""An entry with fewer checkpoints holds them all and has no pages."""

_LEVELS = 3
_BITS = 4  # a level is this much rarer than the one below


class _Memory:
    """The last list that was cut, and the pages of the last entry, of one log."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.held: dict[str, Records] = {}  # by the name of a page; those that were used last
        self.cut = _Cut()


_memories: WeakKeyDictionary[Store, _Memory] = WeakKeyDictionary()
os.register_at_fork(after_in_child=_memories.clear)  # in a fork, whoever held one of their locks does not exist


class Pages:
    """The pages of one log.

    Several threads may use it at once. All instances for one store share what they remember, so a commit, or a look at
    the log after it, costs only as much as what has changed.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._memory = _memories.setdefault(store, _Memory())
        # These are not shared: the directory may have been deleted and begun anew since others saw them.
        self._durable: set[str] = set()  # of the pages of the last entry that was published

    def cut(self, records: Records) -> tuple[list[CheckpointRecord | str], dict[str, Records]]:
        """Return the records, with page names in place of what pages hold, and the pages. `keep` writes them."""
        shown: list[CheckpointRecord | str] = []
        held: dict[str, Records] = {}
        if len(records) < FEWEST:
            return list(records), held
        with self._memory.lock:
            named = {(page[0].prefix, len(page)): (page, name) for name, page in self._memory.held.items()}
            for part, is_page in self._memory.cut.parts(records):
                if not is_page:
                    shown += part
                    continue
                page, name = named.get((part[0].prefix, len(part)), ((), ""))
                if page != part:  # mostly they are the very same objects
                    page, name = part, page_name(encode_page(part))
                shown.append(name)
                held[name] = page
            self._memory.held = held
        return shown, held

    def keep(self, pages: Mapping[str, Records]) -> None:
        """Make pages durable. Raises StorageError if one may not be; then call it again."""
        for name, records in pages.items():
            if name not in self._durable:
                self._create(page_object(name), encode_page(records))
        self._durable = set(pages)

    def read(self, names: Sequence[str]) -> list[Records]:
        """Read the records of pages.

        Waits for a page that a mount does not show yet. Raises CheckpointDamaged if it does not appear, or is not what
        was written.
        """
        with self._memory.lock:
            known = {name: self._memory.held[name] for name in names if name in self._memory.held}
        missing = [name for name in dict.fromkeys(names) if name not in known]
        wait = Wait()
        known |= zip(missing, in_parallel(lambda n: self._read(n, wait), missing, self._store.parallel), strict=True)
        with self._memory.lock:
            self._memory.held = known
        return [known[name] for name in names]

    def _create(self, name: str, data: bytes) -> None:
        if not self._store.create(name, data) and not holds(self._store, name, data):
            # A part that somebody who was killed has left, without hard links. Whoever writes it, it is the same.
            self._store.replace(name, data)

    def _read(self, page: str, wait: Wait) -> Records:
        name = page_object(page)
        full = f"{self._store.url}/{name}"
        missing = f"{full} is missing, which the log needs"
        while True:
            try:
                return decode_page(read_whole(self._store, name, LARGEST_PAGE), page, full)
            except FileNotFoundError:
                if not wait.again(missing):
                    raise CheckpointDamaged(f"{missing}: was only a part of `_holdfast` copied?", object=name) from None


class _Cut:
    """The cuts of a list of records, remembered for the next list, which is likely to begin the same way."""

    def __init__(self) -> None:
        self._records: Records = ()
        self._borders: list[list[int]] = [[] for _ in range(_LEVELS)]  # of level 1, 2, ...: where a page would end
        self._runs: list[int] = []  # where checkpoints kept for ever begin or end
        self._levels: dict[str, int] = {}  # by prefix

    def parts(self, records: Records) -> Iterator[tuple[Records, bool]]:
        """Yield the parts of the list, in order, and whether each is a page."""
        self._mark(records)
        for start, end in pairwise([*self._runs, len(records)]):
            for first, last, is_page in self._spans(start, end, _LEVELS, after_border=False):
                yield records[first:last], is_page

    def _spans(self, start: int, end: int, level: int, *, after_border: bool) -> Iterator[tuple[int, int, bool]]:
        """Yield the parts of a run: first, last + 1, and whether it is a page."""
        if start == end:
            return
        if level == 0:
            yield start, end, False
            return
        borders = self._borders[level - 1]
        cuts = [start] if after_border else []
        cuts += borders[bisect_left(borders, start + 1) : bisect_left(borders, end + 1)]
        if not cuts:
            yield from self._spans(start, end, level - 1, after_border=False)
            return
        yield from self._spans(start, cuts[0], level - 1, after_border=False)
        for first, last in pairwise(cuts):
            yield first, last, True
        yield from self._spans(cuts[-1], end, level - 1, after_border=True)

    def _mark(self, records: Records) -> None:
        """Find borders and runs, beginning where the list differs from the last one."""
        same = _common(self._records, records)
        for borders in self._borders:
            del borders[bisect_left(borders, same + 1) :]
        del self._runs[bisect_left(self._runs, same) :]
        if len(self._levels) > 2 * len(records) + FEWEST:
            self._levels = {}
        levels = self._levels
        kept = _is_kept(records[same - 1]) if same else None
        for end, record in enumerate(records[same:], same + 1):
            level = levels.get(record.prefix)
            if level is None:
                level = levels[record.prefix] = _level(record.prefix)
            for borders in self._borders[:level]:
                borders.append(end)
            if _is_kept(record) is not kept:
                kept = _is_kept(record)
                self._runs.append(end - 1)
        self._records = records


def _level(prefix: str) -> int:
    drawn = int.from_bytes(hashlib.blake2b(prefix.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
    return next((level for level in range(_LEVELS) if drawn >> _BITS * level & ((1 << _BITS) - 1)), _LEVELS)


def _is_kept(record: CheckpointRecord) -> bool:
    return record.stock or record.preserved


def _common(one: Records, other: Records) -> int:
    """Return the number of records that both lists have in common at their beginning."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
