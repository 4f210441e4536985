"""A mount that shows late what another host has made, by a clock that passes only when somebody sleeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from holdfast_storage import lag
from holdfast_storage.store.base import LARGEST
from holdfast_storage.store.posix import PosixStore


@dataclass
class Clock:
    """Stands for `time` in `holdfast_storage.lag`."""

    now: float = 1000.0
    pauses: int = 0

    @classmethod
    def installed(cls, monkeypatch: pytest.MonkeyPatch, now: float = 1000.0) -> Clock:
        made = cls(now)
        monkeypatch.setattr(lag, "time", made)
        return made

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses += 1


class LaggingStore(PosixStore):
    """A folder of which some objects are shown late.

    late: by the end of an object's name, the time from which it is there.
    short: whether it is shown at half its size until then, and not missing.
    """

    def __init__(self, root: str, clock: Clock, late: Mapping[str, float], *, short: bool = False) -> None:
        super().__init__(root)
        self.looked: list[str] = []
        self._clock = clock
        self._late = dict(late)
        self._short = short

    def _is_late(self, name: str) -> bool:
        return any(name.endswith(end) and self._clock.now < there for end, there in self._late.items())

    def open(self, name: str) -> int:
        self.looked.append(name)
        if self._is_late(name) and not self._short:
            raise FileNotFoundError(name)
        return super().open(name)

    def read(self, name: str, *, limit: int = LARGEST) -> bytes:
        data = super().read(name, limit=limit)
        return data[: len(data) // 2] if self._is_late(name) else data

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        if self._is_late(name):
            buffer = buffer[: max(0, (super().size(name) or 0) // 2 - offset)]
        return super().read_into(name, offset, buffer)

    def size(self, name: str) -> int | None:
        size = super().size(name)
        if size is None or not self._is_late(name):
            return size
        return size // 2 if self._short else None
