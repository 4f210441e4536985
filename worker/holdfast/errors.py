"""The errors that Holdfast raises. `kind` is stable: it goes into logs and scripts and is never renamed."""

from holdfast_storage.errors import (
    CheckpointDamaged,
    CoordinatorUnavailable,
    HoldfastError,
    InvalidRequest,
    ReplicaDivergence,
    SaveFailed,
    StorageError,
    Superseded,
)

__all__ = [
    "CheckpointDamaged",
    "CoordinatorUnavailable",
    "HoldfastError",
    "InvalidRequest",
    "ReplicaDivergence",
    "SaveFailed",
    "StorageError",
    "Superseded",
]
