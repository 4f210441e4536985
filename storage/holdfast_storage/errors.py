"""The errors of Holdfast: one tree, grouped by what the caller would do about them.

`kind` is a stable identifier: it goes over the wire, into logs and into scripts, and is never renamed. Public as
`holdfast.errors`; it is defined here because the storage layer raises it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class HoldfastError(Exception):
    """Anything that Holdfast raises on purpose.

    Attributes:
        kind: stable identifier of the kind of error.
        workers: names of the workers concerned, such as `worker-2`.
        phase: what was being done, such as `vote` or `write`.
        object: the storage object or variable concerned.
    """

    kind: ClassVar[str] = "error"

    def __init__(self, message: str, *, workers: Sequence[str] = (), phase: str = "", object: str = "") -> None:
        super().__init__(message)
        self.workers = tuple(workers)
        self.phase = phase
        self.object = object


class InvalidRequest(HoldfastError):
    """The request cannot succeed as it is: change the call, the configuration or the cluster."""

    kind = "invalid_request"


class StorageError(HoldfastError):
    """The storage could not be read or written: check mount, credentials and space. No checkpoint counts as damaged."""

    kind = "storage"


class CheckpointDamaged(HoldfastError):
    """Committed data is missing or fails its digest."""

    kind = "checkpoint_damaged"


class CheckpointAbsent(CheckpointDamaged):
    """Committed data is missing or cut, and no byte of it is known to be wrong. It may be late on this host's mount."""


class CoordinatorUnavailable(HoldfastError):
    """The coordinator was not reached within the time allowed."""

    kind = "coordinator_unavailable"


class Superseded(HoldfastError):
    """A newer writer leads the run. This is final: the manager can commit nothing any more."""

    kind = "superseded"


class SaveFailed(HoldfastError):
    """One save was not committed, and nothing of it is visible. Training can go on; later saves may succeed."""

    kind = "save_failed"


class ReplicaDivergence(SaveFailed):
    """A variable that must be equal on all workers is not: one of them has computed or stored a wrong value."""

    kind = "replica_divergence"


BY_KIND: dict[str, type[HoldfastError]] = {
    cls.kind: cls
    for cls in (
        HoldfastError,
        InvalidRequest,
        StorageError,
        CheckpointDamaged,
        CoordinatorUnavailable,
        Superseded,
        SaveFailed,
        ReplicaDivergence,
    )
}
