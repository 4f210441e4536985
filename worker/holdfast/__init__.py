"""Holdfast: all workers of a distributed TensorFlow run save the same step, all or nothing.

    import holdfast

    with holdfast.CheckpointManager(checkpoint, directory) as manager:
        manager.restore_or_initialize()
        for step in range(...):
            ...
            manager.save()

A call of `save` goes through `capture` (a zero-copy snapshot), `digest` (what the workers vote on), `plan` (who writes
which bytes), `write` and `saving` (the steps in order); `restore_or_initialize` through `restoring` (agreeing),
`staging` (reading and verifying) and `restore` (giving the state to TensorFlow). `session` is the worker's side of the
protocol, `lane` the thread on which all of this is done in order. Importing the package does not import TensorFlow.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast import errors, keras
    from holdfast.manager import CheckpointManager

__all__ = ["CheckpointManager", "errors", "keras"]

__version__ = version("holdfast")


def __getattr__(name: str) -> Any:
    if name == "CheckpointManager":
        return import_module("holdfast.manager").CheckpointManager
    if name in ("errors", "keras"):
        return import_module(f"holdfast.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
