"""Holdfast: all workers of a distributed TensorFlow run save the same step, all or nothing.

    import holdfast

    with holdfast.CheckpointManager(checkpoint, directory) as manager:
        manager.restore_or_initialize()
        for step in range(...):
            ...
            manager.save()

The packages: `saving` (snapshot, digest, vote, plan, write, report), `restoring` (agree on a checkpoint, read and
verify it, give it to TensorFlow), `session` (who this worker is, its coordinator, the thread that makes all calls in
order), `servers` (what parameter servers hold), `layers` (what Keras layers hold), `keras`, `cli`, `demo`. Importing
`holdfast` does not import TensorFlow.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast import errors, keep, keras
    from holdfast.checkpoint_manager import CheckpointManager
    from holdfast.incremental import Incremental
    from holdfast.preemption import Preempted, Preemption
    from holdfast.reading import checkpoints_iterator
    from holdfast.save_interval import young_daly
    from holdfast.servers.serve import serve_parameter_server
    from holdfast.worker_input import per_worker_iterator

__all__ = [
    "CheckpointManager",
    "Incremental",
    "Preempted",
    "Preemption",
    "checkpoints_iterator",
    "errors",
    "keep",
    "keras",
    "per_worker_iterator",
    "serve_parameter_server",
    "young_daly",
]

__version__ = version("holdfast")

_MODULES = {
    "CheckpointManager": "checkpoint_manager",
    "Incremental": "incremental",
    "Preempted": "preemption",
    "Preemption": "preemption",
    "checkpoints_iterator": "reading",
    "per_worker_iterator": "worker_input",
    "serve_parameter_server": "servers.serve",
    "young_daly": "save_interval",
}
"""The modules of what is imported when it is asked for. A module with the name itself would take its place."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"holdfast.{_MODULES[name]}"), name)
    if name in ("errors", "keep", "keras"):
        return import_module(f"holdfast.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
