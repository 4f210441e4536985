"""A parameter server's saves: it holds the values that TensorFlow hands over, votes, writes and reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from holdfast.saving.plan import DataObject, Part, Piece, Plan
from holdfast.saving.save import Save
from holdfast.saving.shares import Assigned
from holdfast.saving.snapshot import Snapshot, SnapshotTensor
from holdfast.servers.member import Assignment, Member

_NOTHING = SnapshotTensor("", 0, (), b"")
"""In place of the object graph, which the chief writes."""


def assign(
    member: Member,
    arrays: Sequence[Any],
    *,
    digest: str,
    worker: int,
    shards: int,
    tensors: Sequence[Any],
    objects: Sequence[Any],
    tables: Sequence[int],
) -> None:
    """Learn what this server holds and writes. `worker` is its number among the tasks that save."""
    held = tuple(SnapshotTensor(key, dtype, tuple(shape), b"") for key, dtype, shape in tensors)
    part = Part(tuple(DataObject(shard, tuple(map(_piece, pieces))) for shard, pieces in objects))
    plan = Plan((*(Part(()) for _ in range(worker)), part), shards, {})
    member.assignments = {digest: Assignment(held, plan, frozenset(tables))}


def save(
    member: Member, arrays: Sequence[Any], *, assignment: str, snapshot: str, ordinal: int, step: int, is_full: bool
) -> None:
    """Save the values of this moment, which `arrays` refers to."""
    member.check()
    assigned = member.assignments[assignment]
    held = tuple(
        SnapshotTensor(each.key, each.dtype, each.shape, bytes_of(array))
        for each, array in zip(assigned.tensors, arrays, strict=True)
    )
    taken = [Snapshot(held, _NOTHING)]
    member.begun += 1
    number = member.begun

    def run() -> None:
        member.check()  # whoever has not joined has no part in the save
        # The save alone keeps the values, and lets them go once they are written.
        save = Save(member.session, member.store, member.said.terms, step, taken.pop(), ordinal)
        save.assigned = Assigned(bytes.fromhex(assignment), bytes.fromhex(snapshot), assigned.plan, assigned.tables)
        save.increments = member.increments
        if member.increments is not None and is_full:
            member.increments.forget()  # the chief alone knows of restores
        member.turns.take(save)
        member.done = number

    member.lane.submit(run)


def bytes_of(array: Any) -> memoryview:
    """Return the bytes of an array as TensorFlow hands it over: its own buffer."""
    flat = np.ascontiguousarray(array)
    return memoryview(flat.reshape(-1).view(np.uint8)) if flat.size else memoryview(b"")


def _piece(said: Sequence[Any]) -> Piece:
    position, extents, begin, end, offset = said
    return Piece(position, extents and tuple((start, length) for start, length in extents), begin, end, offset)
