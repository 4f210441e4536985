"""The last steps before a commit: index, manifest, and every object seen.

All bytes of both files follow from what the workers reported, and both are created exclusively: whichever coordinator
process does it, or both of an old one and its successor, the same bytes stand under the name, once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast_protos.v1.coordinator_pb2 import IndexEntry, StoredObject
from holdfast_storage import layout
from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.bundle.index import write_index
from holdfast_storage.errors import HoldfastError, StorageError
from holdfast_storage.manifest import Manifest, ObjectRecord
from holdfast_storage.parallel import in_parallel
from holdfast_storage.records import Task
from holdfast_storage.store.base import Store

from .core.effects import Finalize
from .core.events import Finalized
from .core.values import Failure

SEEN_WITHIN = 20.0
"""Seconds within which an object that a worker made durable must be visible here: NFS clients cache that long."""

STATS = 8
"""Objects looked at at a time."""


@dataclass(slots=True)
class Payload:
    """What a worker reports beside what the core looks at."""

    num_shards: int
    description: str = ""  # JSON, of the chief alone
    objects: list[StoredObject] = field(default_factory=list)
    entries: list[IndexEntry] = field(default_factory=list)


def finalize(store: Store, effect: Finalize, sleep: Callable[[float], None] = time.sleep) -> Finalized:
    """Write index and manifest durably and see every object at its size."""
    prefix = layout.prefix(effect.checkpoint_name, effect.step, effect.generation.id, effect.ordinal)
    try:
        crc = _finalize(store, effect, prefix, sleep)
    except HoldfastError as error:
        workers = tuple(Task.parse(name) for name in error.workers)
        kind = "storage" if isinstance(error, StorageError) else "save_failed"
        failure = Failure(kind, str(error), phase="finalize", tasks=workers, object=error.object)
        return Finalized(effect.generation.id, effect.ordinal, prefix, failure=failure)
    return Finalized(effect.generation.id, effect.ordinal, prefix, manifest_crc32c=crc)


def _finalize(store: Store, effect: Finalize, prefix: str, sleep: Callable[[float], None]) -> int:
    payloads = [(task, payload(report.payload)) for task, report in effect.reports]
    chief = payloads[0][1]
    folder = prefix.rpartition("/")[0]
    objects = [
        ObjectRecord(o.name, o.size, o.crc32c, o.role, task) for task, payload in payloads for o in payload.objects
    ]
    index = write_index(
        chief.num_shards, ((entry.key, entry.record) for _, payload in payloads for entry in payload.entries)
    )
    _create(store, layout.index_object(prefix), index)
    name = layout.index_object(prefix).removeprefix(f"{folder}/")
    objects.append(ObjectRecord(name, len(index), crc32c(index), "index", None))
    description = json.loads(chief.description)
    manifest = Manifest(
        prefix=prefix,
        step=effect.step,
        generation=effect.generation.id,
        world=tuple(task for task, _ in effect.generation.members),
        cluster=dict(effect.cluster),
        objects=tuple(sorted(objects, key=lambda o: o.name)),
        time=description["time"],
        strategy=description["strategy"],
        versions=description["versions"],
        git_commit=description["git_commit"],
        metadata=description["metadata"],
        metrics=description["metrics"],
        local_keys=tuple(description["local_keys"]),
    ).to_bytes()
    _create(store, layout.manifest_object(folder), manifest)
    _see(store, folder, objects, sleep)
    return crc32c(manifest)


def payload(value: object) -> Payload:
    """The core hands it on unread, as an object."""
    assert isinstance(value, Payload)
    return value


def _create(store: Store, name: str, data: bytes) -> None:
    """Exclusive, and content with finding the very same bytes: an earlier process of this coordinator wrote them."""
    if not store.create(name, data) and store.read(name) != data:
        raise StorageError(f"{store.url}/{name} exists and is not what this save wrote", object=name)


def _see(store: Store, folder: str, objects: list[ObjectRecord], sleep: Callable[[float], None]) -> None:
    def unseen(wanted: list[ObjectRecord]) -> list[tuple[ObjectRecord, int | None]]:
        sizes = in_parallel(lambda o: store.size(f"{folder}/{o.name}"), wanted, STATS)
        return [(o, size) for o, size in zip(wanted, sizes, strict=True) if size != o.size]

    missing, pause, waited = unseen(objects), 0.1, 0.0
    while missing and waited < SEEN_WITHIN:
        sleep(pause)
        waited, pause = waited + pause, min(2 * pause, 2.0)
        missing = unseen([o for o, _ in missing])
    if missing:
        first, size = missing[0]
        state = "is not there" if size is None else f"has {size} bytes"
        raise StorageError(
            f"{store.url}/{folder}/{first.name}, written by {first.task} with {first.size} bytes, {state} as the "
            "coordinator sees it. Check that all workers and the coordinator have the same directory mounted",
            workers=[str(first.task)] if first.task else [],
            object=f"{folder}/{first.name}",
        )
