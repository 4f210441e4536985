"""manifest.json: the description of a checkpoint in its own folder, with size and CRC32C of every object.

It is plain JSON, for people and for other programs. Unknown fields are ignored; a higher `format` is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CheckpointAbsent, CheckpointDamaged, InvalidRequest
from holdfast_storage.layout import LARGEST_STEP, MANIFEST, check_relative, manifest_object
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store.base import Store

FORMAT = 1

_END = b"\n}\n"  # occurs nowhere else: everything inside is indented

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """One object of a checkpoint."""

    name: str  # relative to the checkpoint's folder
    size: int  # bytes
    crc32c: int
    role: str  # "data", "index", "local", "asset"
    task: Task | None = None  # the task that wrote it; None: the coordinator


@dataclass(frozen=True, slots=True)
class Manifest:
    """The objects of a committed checkpoint, and its origin."""

    prefix: str  # relative to the run directory
    step: int
    time: float  # wall clock, seconds since the epoch
    generation: str
    world: tuple[Task, ...]  # the tasks that saved it, in order
    objects: tuple[ObjectRecord, ...]  # all but the manifest itself
    cluster: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # job to addresses, as in TF_CONFIG
    strategy: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    git_commit: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)  # the user's, any JSON
    metrics: Mapping[str, Any] = field(default_factory=dict)  # the user's, any JSON
    local_keys: tuple[str, ...] = ()  # stock keys that hold the chief's value, and local/ each worker's own

    @property
    def size(self) -> int:
        """The bytes of all objects together."""
        return sum(each.size for each in self.objects)

    def to_bytes(self) -> bytes:
        """Encode the file. Raises TypeError or ValueError if metadata or metrics are not JSON."""
        fields = {
            "format": FORMAT,
            "prefix": self.prefix,
            "step": self.step,
            "time": self.time,
            "generation": self.generation,
            "world": [str(task) for task in self.world],
            "cluster": {job: list(addresses) for job, addresses in self.cluster.items()},
            "strategy": self.strategy,
            "versions": dict(self.versions),
            "git_commit": self.git_commit,
            "metadata": dict(self.metadata),
            "metrics": dict(self.metrics),
            "local_keys": list(self.local_keys),
            "objects": [
                {
                    "name": each.name,
                    "size": each.size,
                    "crc32c": f"{each.crc32c:08x}",
                    "role": each.role,
                    "task": each.task and str(each.task),
                }
                for each in self.objects
            ],
        }
        return json.dumps(fields, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"

    @classmethod
    def parse(cls, data: bytes, name: str = MANIFEST) -> Manifest:
        """Decode the file. Raises CheckpointDamaged if it is malformed, InvalidRequest if a newer Holdfast wrote it.

        name: the file's name, for the error.
        """
        try:
            fields = json.loads(data)
            if _get(fields, "format", int) > FORMAT:
                raise InvalidRequest(
                    f"{name} was written by a newer Holdfast (format {fields['format']}, known here {FORMAT})",
                    object=name,
                )
            return cls(
                prefix=check_relative(_get(fields, "prefix", str)),
                step=_step(_get(fields, "step", int)),
                time=_finite(float(fields["time"])),
                generation=_get(fields, "generation", str),
                world=tuple(Task.parse(each) for each in _get(fields, "world", list)),
                objects=tuple(_object(each) for each in _get(fields, "objects", list)),
                cluster={job: tuple(addresses) for job, addresses in _get(fields, "cluster", dict).items()},
                strategy=_get(fields, "strategy", str),
                versions=_get(fields, "versions", dict),
                git_commit=_get(fields, "git_commit", str),
                metadata=_get(fields, "metadata", dict),
                metrics=_get(fields, "metrics", dict),
                local_keys=tuple(_get(fields, "local_keys", list)),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise CheckpointDamaged(f"{name} is not a manifest: {error}", object=name) from error


def read_manifest(store: Store, record: CheckpointRecord) -> Manifest:
    """Read a manifest and checks it against the log's record.

    Raises CheckpointAbsent if it is missing or cut, CheckpointDamaged if it is malformed or not the one that was
    committed, StorageError if it cannot be read.
    """
    name = manifest_object(record.folder)
    full = f"{store.url}/{name}"
    try:
        data = store.read(name)
    except FileNotFoundError as error:
        raise CheckpointAbsent(f"{full} is missing", object=full) from error
    if (found := crc32c(data)) != record.manifest_crc32c:
        if _END not in data:
            raise CheckpointAbsent(f"{full} ends early, at byte {len(data)}", object=full)
        raise CheckpointDamaged(
            f"{full} is not what was committed: CRC32C {found:08x} instead of {record.manifest_crc32c:08x}", object=full
        )
    return Manifest.parse(data, full)


def _object(fields: Any) -> ObjectRecord:
    size = _get(fields, "size", int)
    if size < 0:
        raise ValueError(f"size {size}")
    task = fields.get("task")
    return ObjectRecord(
        name=check_relative(_get(fields, "name", str)),
        size=size,
        crc32c=int(_get(fields, "crc32c", str), 16),
        role=_get(fields, "role", str),
        task=None if task is None else Task.parse(task),
    )


def _step(value: int) -> int:
    if not 0 <= value <= LARGEST_STEP:
        raise ValueError(f"step {value}")
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is no time")
    return value


def _get(fields: Any, name: str, kind: type[_T]) -> _T:
    value = fields[name]
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {value!r}")
    return value
