"""The storages that a run directory can lie on."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from holdfast_storage.store.base import Store

__all__ = ["Store", "normalise", "open_store"]


def normalise(url: str | PathLike[str]) -> str:
    """A run directory's URL in the one form in which two of them can be compared."""
    raise NotImplementedError


def open_store(url: str | PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Store:
    """The store of a run directory. Touches nothing there yet."""
    raise NotImplementedError
