"""A clock that passes as the real one does, and beyond that when a test says so: nobody waits for a deadline."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

PACKAGES = ("holdfast", "holdfast_coordinator", "holdfast_storage")


class PassingTime:
    """Stands for `time` in the product's modules. What they sleep, they sleep."""

    def __init__(self) -> None:
        self._ahead = 0.0

    @classmethod
    def installed(cls, monkeypatch: pytest.MonkeyPatch) -> PassingTime:
        passing = cls()
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in PACKAGES and vars(module).get("time") is time:
                monkeypatch.setattr(module, "time", passing)
        return passing

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def time(self) -> float:
        return time.time() + self._ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def by(self, seconds: float) -> None:
        self._ahead += seconds

    def until(self, condition: Callable[[], bool]) -> None:
        """Let time pass, a second after the other, until something has come about because of it."""
        end = time.monotonic() + 60.0
        while not condition():
            assert time.monotonic() < end, "it never came about"
            time.sleep(0.005)
            self._ahead += 1.0
