"""Writes a worker's part of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from holdfast.plan import Plan
from holdfast.snapshot import Snapshot, SnapshotTensor
from holdfast_protos.v1.bundle_pb2 import BundleEntry
from holdfast_protos.v1.coordinator_pb2 import StoredObject
from holdfast_storage.store.base import Store


@dataclass(frozen=True, slots=True)
class Written:
    """What a worker reports."""

    objects: tuple[StoredObject, ...]
    entries: tuple[tuple[bytes, BundleEntry], ...]  # table key and record of the stock index


def write_objects(
    store: Store,
    prefix: str,
    plan: Plan,
    worker: int,
    snapshot: Snapshot,
    crcs: Sequence[int],
    *,
    threads: int = 2,
    progress: Callable[[int], None] | None = None,
) -> Written:
    raise NotImplementedError


def local_tensors(snapshot: Snapshot, local: Sequence[int], per_worker: Snapshot | None) -> list[SnapshotTensor]:
    raise NotImplementedError


def write_local(
    store: Store, folder: str, task: str, tensors: Sequence[SnapshotTensor], *, progress: Callable[[int], None] | None = None
) -> tuple[StoredObject, ...]:
    raise NotImplementedError
