"""The reason of a failure as a value, with which the coordinator decides, and which goes over the wire.

This is the one place where an error becomes a Failure, and a Failure becomes the error to raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast_storage.cluster import Task, names
from holdfast_storage.errors import (
    CheckpointDamaged,
    CoordinatorUnavailable,
    HoldfastError,
    InvalidRequest,
    Kind,
    ReplicaDivergence,
    SaveFailed,
    StorageError,
    Superseded,
)

_RAISED = (
    *(HoldfastError, InvalidRequest, StorageError, CheckpointDamaged),
    *(CoordinatorUnavailable, Superseded, SaveFailed, ReplicaDivergence),
)
_BY_KIND = {Kind(error.kind): error for error in _RAISED}


@dataclass(frozen=True, slots=True)
class Failure:
    """An error that is not raised. `message` is one sentence for people; the rest is as in `HoldfastError`."""

    kind: Kind
    message: str
    phase: str = ""
    tasks: tuple[Task, ...] = ()
    object: str = ""
    positions: tuple[int, ...] = ()  # of the tensors concerned, in key order: only the workers know the keys
    ahead: tuple[Task, ...] = ()  # these save a later step than others: they have missed a call, and count one more

    @classmethod
    def of(cls, error: Exception, message: str = "", phase: str = "") -> Failure:
        """Return the failure for an error. `message` replaces the error's own; `phase` counts if the error has none.

        An error that Holdfast does not raise on purpose is of kind ERROR.
        """
        if not isinstance(error, HoldfastError):
            return cls(Kind.ERROR, message or f"the coordinator failed: {error!r}; its log says where", phase)
        tasks = tuple(Task.parse(name) for name in error.workers)
        return cls(Kind(error.kind), message or str(error), error.phase or phase, tasks, error.object)

    def to_error(self, keys: Sequence[str] = ()) -> HoldfastError:
        """Return the error to raise. `keys` are those of the tensors to which `positions` refers."""
        message, object_ = self.message, self.object
        variables = [keys[p] for p in self.positions if 0 <= p < len(keys)]
        if variables:
            more = f" and {len(variables) - 5} more" if len(variables) > 5 else ""
            message = (
                f"{message}: {', '.join(variables[:5])}{more}. Most workers do not share the values of "
                f"{names(self.tasks)}. Nothing was written. Look for bad memory or another program there, restore, or "
                "pass on_divergence='warn'"
            )
            object_ = variables[0]
        error = _BY_KIND.get(self.kind, HoldfastError)
        return error(message, workers=[str(task) for task in self.tasks], phase=self.phase, object=object_)
