"""Coordinators and workers as in tests/service, and nothing left behind by an attack."""

from service.conftest import coordinator, nothing_left, passing, quick, start, store, world

__all__ = ["coordinator", "nothing_left", "passing", "quick", "start", "store", "world"]
