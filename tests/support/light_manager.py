"""The public `CheckpointManager` over a state that is made by hand, without TensorFlow.

What knows TensorFlow (`holdfast.saving.capture`, `holdfast.restoring.apply`) is replaced; all else is the product's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import holdfast.manager
import holdfast.world
from holdfast.restoring.staging import Staged
from holdfast.saving.snapshot import Snapshot
from support.light_worker import state

ALONE = '{"cluster": {"worker": ["127.0.0.1:1000"]}, "task": {"type": "worker", "index": 0}}'
"""A TF_CONFIG of one worker. Without any, TensorFlow would be asked."""


class Counter:
    """Stands for the save counter."""

    def __init__(self) -> None:
        self.value = 0

    def assign_add(self, count: int) -> None:
        self.value += count

    def __int__(self) -> int:
        return self.value


class LightCheckpoint:
    """Stands for a `tf.train.Checkpoint`. What it holds follows from `step`."""

    def __init__(self) -> None:
        self.save_counter = Counter()
        self.step = 0
        self.make: Callable[[int], Snapshot] = lambda step: state(seed=step)

    def restore(self, prefix: None) -> str:
        assert prefix is None
        return "nothing to restore"

    def capture(self) -> Snapshot:
        return self.make(self.step)


def _apply(checkpoint: LightCheckpoint, per_worker: None, staged: Staged) -> str:
    checkpoint.step = staged.record.step
    return f"restored {staged.record.prefix}"


def stand_ins() -> dict[str, ModuleType]:
    """Return what stands for the modules that know TensorFlow, by their names."""
    capture, restore = ModuleType("holdfast.saving.capture"), ModuleType("holdfast.restoring.apply")
    capture.Snapshotter = lambda checkpoint: checkpoint  # type: ignore[attr-defined]
    restore.apply = _apply  # type: ignore[attr-defined]
    restore.Values = None  # type: ignore[attr-defined]
    return {"holdfast.saving.capture": capture, "holdfast.restoring.apply": restore}


def install() -> None:
    """For the rest of this process."""
    sys.modules.update(stand_ins())
    holdfast.world.strategy_name = lambda checkpoint: ""


def make(directory: object, **arguments: Any) -> tuple[Any, LightCheckpoint]:
    """A manager, and the state that it saves."""
    checkpoint = LightCheckpoint()
    return holdfast.manager.Manager(checkpoint, str(directory), **{"save_timeout": 20.0, **arguments}), checkpoint
