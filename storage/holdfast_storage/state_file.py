"""TensorFlow's `checkpoint` text file (CheckpointState)."""

from __future__ import annotations

from holdfast_storage.records import CheckpointRecord, LogState
from holdfast_storage.store.base import Store


def to_bytes(state: LogState) -> bytes:
    """The file for a state: store it with `store.replace(layout.STATE_FILE, ...)`."""
    raise NotImplementedError


def stock_checkpoints(store: Store) -> tuple[CheckpointRecord, ...]:
    """Checkpoints written by TensorFlow itself in this directory, oldest first."""
    raise NotImplementedError
