"""Saving and restoring whole states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import state
from values import digests

import holdfast


def save(world: Any, *, directory: str, kind: str) -> dict[str, Any]:
    """Save a state of a kind; `written` are the bytes that this process gave to write(2), into whatever file."""
    checkpoint = state.make(kind, world.scope(), filled=True)
    with holdfast.CheckpointManager(checkpoint, directory, save_timeout=60.0, join_timeout=60.0) as manager:
        manager.restore_or_initialize()
        before = _written()
        prefix = manager.save(blocking=True)
        written = _written() - before
    values = state.numbers_of(checkpoint)
    size = sum(value.nbytes for value in values.values() if value.dtype != object)
    return {"prefix": prefix, "values": digests(values), "bytes": size, "written": written}


def restore(world: Any, *, directory: str, kind: str) -> dict[str, Any]:
    """Restore into an empty state."""
    checkpoint = state.make(kind, world.scope(), filled=False)
    with holdfast.CheckpointManager(checkpoint, directory, join_timeout=60.0) as manager:
        manager.restore().assert_consumed()
        prefix = manager.latest_checkpoint
    return {"prefix": prefix, "values": digests(state.numbers_of(checkpoint))}


def _written() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])
