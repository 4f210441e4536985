"""Directories that TensorFlow's own CheckpointManager has written."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import state
import tensorflow as tf
from values import digests

import holdfast


def write(world: Any, *, directory: str, saves: int, keep: int) -> dict[str, str]:
    """Save so many times with TensorFlow alone; the values."""
    checkpoint = state.make("keras", nullcontext(), filled=True)
    manager = tf.train.CheckpointManager(checkpoint, directory, max_to_keep=keep)
    for _ in range(saves):
        manager.save()
    return digests(state.numbers_of(checkpoint))


def take_over(world: Any, *, directory: str, saves: int) -> dict[str, Any]:
    """Restore, and save so many times, keeping one."""
    checkpoint = state.make("keras", world.scope(), filled=False)
    with holdfast.CheckpointManager(checkpoint, directory, max_to_keep=1, join_timeout=60.0) as manager:
        before, latest = manager.checkpoints, tf.train.latest_checkpoint(directory)
        restored = manager.restore_or_initialize()
        values = digests(state.numbers_of(checkpoint))
        saved = [manager.save(blocking=True) for _ in range(saves)]
    return {
        "before": before,
        "latest": latest,
        "restored": restored,
        "values": values,
        "saved": saved,
    }
