"""One worker of a contestant on an object store, in its own process, told by `team.py` what to do.

Every call returns the figures that only this process knows: its processor time, and, in its first turn, its memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import crc32c
import numpy as np

from benchmarks.cases import Case
from benchmarks.contestants import create
from benchmarks.contestants.sharer import Sharer, State
from benchmarks.memory import Watch, resident


class Member:
    """Makes the state, the same in every process, and has the contestant save and restore it."""

    def __init__(self, field: str, name: str, case: Case, rank: int, addresses: Sequence[str]) -> None:
        self._contestant: Sharer = create(field, name, rank, addresses)
        self._case = case
        self._fresh = True
        self._state_alone = self._saved = 0
        self._prepared: dict[str, float] = {}

    def open(self, url: str, storage_options: Mapping[str, Any]) -> None:
        """Begin a turn."""
        state = _state(self._case)
        self._saved = _digest(memoryview(each) for each in state)
        self._contestant.open(state, url, storage_options)
        del state
        self._state_alone = resident()
        self._prepared = self._measured("save", self._contestant.prepare)

    def save(self) -> dict[str, float]:
        figures = self._measured("save", self._contestant.save)
        if "save_bytes" in figures:
            # Memory that was taken before is there to be used again.
            figures["save_bytes"] = max(figures["save_bytes"], self._prepared["save_bytes"])
        return figures

    def forget(self) -> None:
        """Make sure that whatever a restore brings back comes from the store."""
        self._contestant.forget()

    def restore(self) -> dict[str, float]:
        return self._measured("restore", self._contestant.restore)

    def check(self) -> None:
        """RuntimeError if what was restored is not what was saved."""
        if _digest(map(memoryview, self._contestant.restored())) != self._saved:
            raise RuntimeError("what was restored is not what was saved")

    def close(self) -> None:
        """End a turn."""
        self._contestant.close()
        self._fresh = False

    def _measured(self, what: str, call: Callable[[], None]) -> dict[str, float]:
        begin = time.process_time()
        with Watch() if self._fresh else nullcontext() as watch:
            call()
        figures = {f"{what}_cpu": time.process_time() - begin}
        if watch is not None:
            figures[f"{what}_bytes"] = float(watch.peak - self._state_alone)
        return figures


def _state(case: Case) -> State:
    shape = (case.width, case.width)
    noise = np.random.default_rng(1).random(shape, dtype=np.float32)
    return [noise + np.float32(number) for number in range(case.variables)]


def _digest(buffers: Any) -> int:
    value = 0
    for buffer in buffers:
        value = crc32c.crc32c(buffer.cast("B"), value)
    return value
