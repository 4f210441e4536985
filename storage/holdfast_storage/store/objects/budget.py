"""A bound on what several threads hold at a time."""

from __future__ import annotations

import threading


class Budget:
    """So many bytes. Somebody who wants more than all of it gets it when nobody else holds any."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Wait until there is so much."""
        size = min(size, self.size)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size

    def give(self, size: int) -> None:
        with self._changed:
            self._free += min(size, self.size)
            self._changed.notify_all()
