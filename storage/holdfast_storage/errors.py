"""The errors of Holdfast: one tree, grouped by what the caller would do about them.

`kind` is a stable identifier: it goes over the wire, into logs and into scripts, and is never renamed. Public as
`holdfast.errors`; it is defined here because the storage layer raises it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import ClassVar

from holdfast_storage.printable import printable


class Kind(Enum):
    """The kinds of errors, as they go over the wire and into `kind`. The values are never renamed."""

    ERROR = "error"
    INVALID_REQUEST = "invalid_request"
    STORAGE = "storage"
    CHECKPOINT_DAMAGED = "checkpoint_damaged"
    COORDINATOR_UNAVAILABLE = "coordinator_unavailable"
    SUPERSEDED = "superseded"
    SAVE_FAILED = "save_failed"
    REPLICA_DIVERGENCE = "replica_divergence"
    # Nobody raises it: it tells a worker to rejoin, since this coordinator process does not know its generation.
    UNKNOWN_GENERATION = "unknown_generation"


class HoldfastError(Exception):
    """Anything that Holdfast raises on purpose. Its texts are printable lines, whatever names others chose.

    Attributes:
        kind: stable identifier of the kind of error.
        workers: names of the workers concerned, such as `worker-2`.
        phase: what was being done, such as `vote` or `write`.
        object: the storage object or variable concerned.
    """

    kind: ClassVar[str] = Kind.ERROR.value

    def __init__(self, message: str, *, workers: Sequence[str] = (), phase: str = "", object: str = "") -> None:
        super().__init__(printable(message))
        self.workers = tuple(map(printable, workers))
        self.phase = printable(phase)
        self.object = printable(object)


class InvalidRequest(HoldfastError):
    """The request cannot succeed as it is: change the call, the configuration or the cluster."""

    kind = Kind.INVALID_REQUEST.value


class StorageError(HoldfastError):
    """The storage could not be read or written: check mount, credentials and space. No checkpoint counts as damaged."""

    kind = Kind.STORAGE.value


class CheckpointDamaged(HoldfastError):
    """Committed data is missing or fails its digest."""

    kind = Kind.CHECKPOINT_DAMAGED.value


class CheckpointAbsent(CheckpointDamaged):
    """Committed data is missing or cut, and no byte of it is known to be wrong. It may be late on this host's mount."""


class CoordinatorUnavailable(HoldfastError):
    """The coordinator was not reached within the time allowed."""

    kind = Kind.COORDINATOR_UNAVAILABLE.value


class Superseded(HoldfastError):
    """A newer writer leads the run. This is final: the manager can commit nothing any more."""

    kind = Kind.SUPERSEDED.value


class SaveFailed(HoldfastError):
    """One save was not committed, and nothing of it is visible. Training can go on; later saves may succeed."""

    kind = Kind.SAVE_FAILED.value


class ReplicaDivergence(SaveFailed):
    """A variable that must be equal on all workers is not: one of them has computed or stored a wrong value."""

    kind = Kind.REPLICA_DIVERGENCE.value
