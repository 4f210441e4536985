"""Places in memory for bytes of objects, filled by whoever reads the objects, each byte once."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class _Place:
    """The place where some bytes of an object go."""

    begin: int
    end: int
    memory: Any  # an array of bytes, which keeps its owner alive


class Places:
    """Where bytes of objects go. Several threads may fill them at once, with bytes that do not overlap."""

    def __init__(self) -> None:
        self._places: dict[str, list[_Place]] = defaultdict(list)

    def add(self, name: str, offset: int, memory: Any) -> None:
        """Have the bytes of an object from `offset` go to `memory`, an array of bytes. No two places share bytes of an
        object."""
        if not len(memory):
            return
        places, place = self._places[name], _Place(offset, offset + len(memory), memory)
        places.insert(bisect_right(places, offset, key=lambda each: each.begin), place)

    def room(self, name: str, offset: int, size: int) -> memoryview | None:
        """Return memory for `size` bytes of an object, or for as many as go to the same place.

        Return None if these are less than half: several reads would then cost more than a copy. See `take`.
        """
        for place in self._at(name, offset, offset + 1):
            room = place.memory[offset - place.begin :][:size]
            if 2 * len(room) >= size:
                return memoryview(room)
        return None

    def take(self, name: str, offset: int, chunk: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Copy bytes of an object to where they belong. Yield what has no place, with offsets."""
        begin, end = offset, offset + len(chunk)
        for place in self._at(name, begin, end):
            if begin < place.begin:
                yield begin, chunk[begin - offset : place.begin - offset]
                begin = place.begin
            stop = min(end, place.end)
            # numpy copies, and lets other threads run meanwhile.
            place.memory[begin - place.begin : stop - place.begin] = np.frombuffer(chunk[begin - offset :], np.uint8)[
                : stop - begin
            ]
            begin = stop
        if begin < end:
            yield begin, chunk[begin - offset :]

    def clear(self) -> None:
        """Forget all places."""
        self._places.clear()

    def _at(self, name: str, begin: int, end: int) -> Iterator[_Place]:
        """Yield the places that a range of an object touches, in order."""
        places = self._places.get(name, [])
        first = bisect_right(places, begin, key=lambda place: place.begin)
        for place in places[max(0, first - 1) :]:
            if place.begin >= end:
                return
            if place.end > begin:
                yield place
