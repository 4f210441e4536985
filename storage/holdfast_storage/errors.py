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
    """What was asked for cannot be done by anybody: change the call, the configuration or the cluster."""

    kind = "invalid_request"


class StorageError(HoldfastError):
    """The storage could not be read or written: check the mount, the credentials, the space. Nothing is condemned."""

    kind = "storage"


class CheckpointDamaged(HoldfastError):
    """Committed data is missing or fails its digest."""

    kind = "checkpoint_damaged"


class CheckpointAbsent(CheckpointDamaged):
    """Committed data is missing, or not all there, and what is there is not known to be wrong: it is deleted or cut, or
    a mount shows it late."""


class CoordinatorUnavailable(HoldfastError):
    """The coordinator was not reached within the time allowed."""

    kind = "coordinator_unavailable"


class Superseded(HoldfastError):
    """A newer writer leads the run. Final for this manager: it can commit nothing any more."""

    kind = "superseded"


class SaveFailed(HoldfastError):
    """One save was not committed; the run goes on from the last one that was. Nothing of it is visible."""

    kind = "save_failed"


class ReplicaDivergence(SaveFailed):
    """A variable that must be equal on all workers is not: somebody computes or remembers wrongly."""

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
