"""A limit on the bytes that several threads hold at a time."""

from __future__ import annotations

import threading


class Budget:
    """A number of bytes to share. Who wants more than all of them gets them when nobody else holds any."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Wait until `size` bytes are free, and take them."""
        size = min(size, self.size)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size

    def give(self, size: int) -> None:
        with self._changed:
            self._free += min(size, self.size)
            self._changed.notify_all()
