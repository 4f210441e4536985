"""Stores of which a test need not wait for the second try."""

from __future__ import annotations

import pytest

from holdfast_storage.store.objects import store as object_store


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses between tries: what happens does not change, only how long one waits for it."""
    monkeypatch.setattr(object_store, "FIRST_PAUSE", 0.001)
