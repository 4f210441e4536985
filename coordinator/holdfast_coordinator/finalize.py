"""The last steps before a commit: write index and manifest, and see every object.

All bytes of both files follow from the workers' reports, and both are created exclusively. So whichever coordinator
process writes them, or an old one and its successor both do, one object with the same bytes stands there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from holdfast_protos.v1.coordinator_pb2 import IndexEntry, StoredObject
from holdfast_storage import layout
from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.bundle.index import write_index
from holdfast_storage.checkpoint.manifest import DESCRIPTION, Base, Manifest, ObjectRecord, numbers
from holdfast_storage.cluster import Task, has_servers
from holdfast_storage.errors import StorageError
from holdfast_storage.lag import Wait, holds
from holdfast_storage.parallel import in_parallel
from holdfast_storage.spec import Unexpected, fields, load
from holdfast_storage.store.base import Store

from . import shares
from .core.effects import Finalize
from .core.events import Finalized

STATS = 8
"""The number of objects to look at at the same time."""

_DESCRIPTION = fields(DESCRIPTION)


@dataclass(slots=True)
class Payload:
    """The part of a worker's report that the core does not read."""

    num_shards: int
    description: str = ""  # JSON, only from the chief
    objects: list[StoredObject] = field(default_factory=list)
    entries: list[IndexEntry] = field(default_factory=list)


def finalize(store: Store, effect: Finalize, wait: Wait | None = None) -> Finalized:
    """Write index and manifest durably, and check that every object has its size. Wait for objects that are seen late.

    Raises a HoldfastError that names the worker whose part is wrong or missing.
    """
    prefix = layout.prefix(effect.checkpoint_name, effect.step, effect.generation.id, effect.ordinal)
    folder = prefix.rpartition("/")[0]
    bundle = layout.delta_prefix(prefix) if effect.base else prefix
    base = bundle.removeprefix(f"{folder}/")
    name = layout.index_object(base)
    payloads = [(task, payload(report.payload)) for task, report in effect.reports]
    for task, report in effect.reports:
        if (report.step, report.checkpoint_name) != (effect.step, effect.checkpoint_name):
            raise shares.wrong(task, f"has written {report.checkpoint_name}-{report.step}, not this checkpoint")
    chief, first = payloads[0]
    description = _description(chief, first.description)
    tensors: dict[bytes, int | None] = {}
    for task, part in payloads:
        shares.check_objects(task, base, first.num_shards, part.objects)
        tensors |= shares.check_entries(task, part.objects, part.entries)
    if effect.base is not None:
        tensors = shares.whole_tensors(chief, tensors)
    if effect.voted is not None and not has_servers(effect.cluster):  # whose values are compared with nobody's
        shares.check_vote(chief, effect.voted, tensors)
    objects = [
        ObjectRecord(o.name, o.size, o.crc32c, o.role, task) for task, payload in payloads for o in payload.objects
    ]
    shards = _shards(objects, chief, first.num_shards, name)
    index = write_index(
        first.num_shards, ((entry.key, entry.record) for _, payload in payloads for entry in payload.entries), shards
    )
    objects.append(ObjectRecord(name, len(index), crc32c(index), "index", None))
    try:
        manifest = Manifest(
            prefix=prefix,
            step=effect.step,
            generation=effect.generation.id,
            world=tuple(task for task, _ in effect.generation.members),
            cluster=dict(effect.cluster),
            objects=tuple(sorted(objects, key=lambda o: o.name)),
            base=Base(effect.base.prefix, effect.base.manifest_crc32c) if effect.base else None,
            **description,
        )
        data = manifest.to_bytes()
    except ValueError as error:
        raise shares.wrong(chief, f"describes its save by what no manifest can hold: {error}") from error
    _create(store, layout.index_object(bundle), index)
    _create(store, layout.manifest_object(folder), data)
    _see(store, folder, objects, wait or Wait())
    return Finalized(effect.generation.id, effect.ordinal, prefix, crc32c(data), numbers(manifest.metrics))


def _shards(objects: list[ObjectRecord], chief: Task, count: int, index: str) -> list[int]:
    """Return the bytes of each data object of the index. InvalidRequest unless each was reported exactly once."""
    by_name: dict[str, ObjectRecord] = {}
    for each in objects:
        other = by_name.setdefault(each.name, each)
        if other is not each or each.name == index:
            raise shares.wrong(each.task or chief, f"reports {each.name}, as {other.task} does or the coordinator will")
    data = [each for each in objects if each.role == "data"]
    if len(data) != count:
        raise shares.wrong(chief, f"counts {count} data objects, and {len(data)} were reported")
    base = index.removesuffix(".index")
    names = [layout.data_object(base, shard, count) for shard in range(count)]
    for name in names:
        if name not in by_name or by_name[name].role != "data":
            raise shares.wrong(chief, f"counts {name} among the data objects, which nobody reported")
    return [by_name[name].size for name in names]


def _description(chief: Task, text: str) -> dict[str, Any]:
    """Decode the fields of a manifest that only the chief knows."""
    try:
        content = load(text.encode())
        _DESCRIPTION(content)
    except Unexpected as error:
        raise shares.wrong(chief, f"does not describe its save as the manifest needs it: {error}") from error
    return {name: content[name] for name in DESCRIPTION} | {"local_keys": tuple(content["local_keys"])}


def payload(value: object) -> Payload:
    """Return the payload, which the core passes on unread, as an object."""
    assert isinstance(value, Payload)
    return value


def _create(store: Store, name: str, data: bytes) -> None:
    """Create an object exclusively. The same bytes are fine: an earlier process of this coordinator wrote them."""
    if not store.create(name, data) and not holds(store, name, data):
        raise StorageError(f"{store.url}/{name} exists and is not what this save wrote", object=name)


def _see(store: Store, folder: str, objects: list[ObjectRecord], wait: Wait) -> None:
    def unseen(wanted: list[ObjectRecord]) -> list[tuple[ObjectRecord, str]]:
        sizes = in_parallel(lambda o: store.size(f"{folder}/{o.name}"), wanted, STATS)
        found = zip(wanted, sizes, strict=True)
        return [(o, described(o, size)) for o, size in found if size != o.size]

    def described(o: ObjectRecord, size: int | None) -> str:
        state = "is not there" if size is None else f"has {size} bytes"
        name = f"{store.url}/{folder}/{o.name}"
        return f"{name}, written by {o.task} with {o.size} bytes, {state} as the coordinator sees it"

    missing = unseen(objects)
    while missing and wait.again(missing[0][1]):
        missing = unseen([o for o, _ in missing])
    if missing:
        first, what = missing[0]
        raise StorageError(
            f"{what}. Check that all workers and the coordinator have the same directory mounted",
            workers=[str(first.task)] if first.task else [],
            object=f"{folder}/{first.name}",
        )
