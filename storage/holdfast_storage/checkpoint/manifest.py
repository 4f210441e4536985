"""manifest.json: the description of a checkpoint in its own folder, with size and CRC32C of every object.

It is plain JSON, for people and for other programs. Unknown fields are ignored; a higher `format` is refused.
`_MANIFEST` says what each field must be, and `_check_objects` what they must be together. Both hold for what is written
as for what is read.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast_storage import kinds
from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.cluster import MOST_TASKS, Task
from holdfast_storage.errors import CheckpointAbsent, CheckpointDamaged, InvalidRequest
from holdfast_storage.layout import (
    ASSETS,
    MANIFEST,
    Attempt,
    delta_prefix,
    index_object,
    local_prefix,
    manifest_object,
    parse_prefix,
)
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.spec import Check, Unexpected, fields, free, listed, load, mapped, maybe, one_of
from holdfast_storage.store.base import Store
from holdfast_storage.whole import read_whole

FORMAT = 2
WHOLE_FORMAT = 1
"""The format of the manifest of a full checkpoint, which all versions of Holdfast read."""

LARGEST = 32 << 20
"""The most bytes of a manifest. That of 4,000 workers with eight objects each has 5 MB."""

_END = b"\n}\n"  # occurs nowhere else: everything inside is indented

_OBJECT = fields(
    {
        "name": kinds.OBJECT,
        "size": kinds.SIZE,
        "crc32c": kinds.CRC_TEXT,
        "role": one_of("data", "index", "local", "asset"),
        "task": maybe(kinds.TASK),
    }
)
DESCRIPTION: dict[str, Check] = {
    "time": kinds.TIME,
    "strategy": kinds.WORD,
    "versions": mapped(kinds.WORD, kinds.WORD, 1_000),
    "git_commit": kinds.WORD,
    "metadata": free,
    "metrics": free,
    "local_keys": listed(kinds.KEY, 1_000_000),
}
"""The fields that only the chief knows."""

_MANIFEST = fields(
    {
        "format": kinds.FORMAT,
        "prefix": kinds.PREFIX,
        "step": kinds.STEP,
        "generation": kinds.GENERATION,
        "world": listed(kinds.TASK, MOST_TASKS),
        "cluster": kinds.CLUSTER,
        **DESCRIPTION,
        "objects": listed(_OBJECT, 1_000_000),
    },
    {"base": fields({"prefix": kinds.PREFIX, "manifest_crc32c": kinds.CRC_TEXT})},
)
_FORMATTED = fields({"format": kinds.FORMAT})

_DATA = re.compile(r"\.data-[0-9]{5,10}-of-[0-9]{5,10}")


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """One object of a checkpoint."""

    name: str  # relative to the checkpoint's folder
    size: int  # bytes
    crc32c: int
    role: str  # "data", "index", "local", "asset"
    task: Task | None = None  # the task that wrote it; None: the coordinator


@dataclass(frozen=True, slots=True)
class Base:
    """The checkpoint on which another is a delta. Its manifest's checksum vouches for every byte of it."""

    prefix: str  # relative to the run directory
    manifest_crc32c: int


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
    base: Base | None = None  # None: it is full

    @property
    def size(self) -> int:
        """The bytes of all objects together. Those of a delta's base are not among them."""
        return sum(each.size for each in self.objects)

    @property
    def bundle(self) -> str:
        """The prefix of the checkpoint's own tensors, as in `CheckpointRecord.bundle`."""
        return delta_prefix(self.prefix) if self.base else self.prefix

    def to_bytes(self) -> bytes:
        """Encode the file. Raises ValueError if nobody could read it, TypeError if a field is not JSON."""
        content: dict[str, Any] = {
            "format": FORMAT if self.base else WHOLE_FORMAT,
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
        if self.base:
            crc = f"{self.base.manifest_crc32c:08x}"
            content["base"] = {"prefix": self.base.prefix, "manifest_crc32c": crc}
        _check(content)
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        data = text.encode("utf-8", "backslashreplace") + b"\n"
        if len(data) > LARGEST:
            raise Unexpected(f"the manifest has {len(data):,} bytes, and at most {LARGEST:,} are read")
        return data

    @classmethod
    def parse(cls, data: bytes, name: str = MANIFEST) -> Manifest:
        """Decode the file. Raises CheckpointDamaged if it is malformed, InvalidRequest if a newer Holdfast wrote it.

        name: the file's name, for the error.
        """
        try:
            content = load(data)
            _FORMATTED(content)
            if content["format"] > FORMAT:
                raise InvalidRequest(
                    f"{name} was written by a newer Holdfast (format {content['format']}, known here {FORMAT})",
                    object=name,
                )
            _check(content)
        except ValueError as error:
            raise CheckpointDamaged(f"{name} is not a manifest: {error}", object=name) from error
        base = content.get("base")
        same = ("prefix", "step", "time", "generation", "strategy", "versions", "git_commit", "metadata", "metrics")
        return cls(
            **{field: content[field] for field in same},
            world=tuple(Task.parse(each) for each in content["world"]),
            objects=tuple(_object(each) for each in content["objects"]),
            cluster={job: tuple(addresses) for job, addresses in content["cluster"].items()},
            local_keys=tuple(content["local_keys"]),
            base=Base(base["prefix"], int(base["manifest_crc32c"], 16)) if base else None,
        )


def numbers(metrics: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    """Return the metrics that are finite numbers, by which checkpoints can be compared."""
    found = ((name, value) for name, value in metrics.items() if type(value) in (int, float))
    return tuple((name, float(value)) for name, value in found if -sys.float_info.max <= value <= sys.float_info.max)


def read_manifest(store: Store, record: CheckpointRecord) -> Manifest:
    """Read a manifest and checks it against the log's record.

    Raises CheckpointAbsent if it is missing or cut, CheckpointDamaged if it is malformed or not the one that was
    committed, StorageError if it cannot be read.
    """
    manifest = read_committed(store, record.prefix, record.manifest_crc32c)
    base = manifest.base.prefix if manifest.base else ""
    if base != record.base:
        full = f"{store.url}/{manifest_object(record.folder)}"
        what = f"a delta on {base}" if base else "that of a full checkpoint"
        raise CheckpointDamaged(f"{full} is {what}; the log says otherwise", object=full)
    return manifest


def read_committed(store: Store, prefix: str, committed: int) -> Manifest:
    """Read the manifest of a checkpoint, of which this CRC32C was committed. Raises what `read_manifest` raises."""
    name = manifest_object(prefix.rpartition("/")[0])
    full = f"{store.url}/{name}"
    try:
        data = read_whole(store, name, LARGEST)
    except FileNotFoundError as error:
        raise CheckpointAbsent(f"{full} is missing", object=full) from error
    if (found := crc32c(data)) != committed:
        if _END not in data:
            raise CheckpointAbsent(f"{full} ends early, at byte {len(data)}", object=full)
        raise CheckpointDamaged(
            f"{full} is not what was committed: CRC32C {found:08x} instead of {committed:08x}", object=full
        )
    manifest = Manifest.parse(data, full)
    if manifest.prefix != prefix:
        raise CheckpointDamaged(f"{full} is the manifest of {manifest.prefix}", object=full)
    return manifest


def _object(content: dict[str, Any]) -> ObjectRecord:
    task = content["task"]
    return ObjectRecord(
        name=content["name"],
        size=content["size"],
        crc32c=int(content["crc32c"], 16),
        role=content["role"],
        task=None if task is None else Task.parse(task),
    )


def _check(content: Any) -> None:
    """Check what is to be a manifest. Raises Unexpected."""
    _MANIFEST(content)
    attempt = parse_prefix(content["prefix"])
    if attempt is None or (attempt.number, attempt.generation) != (content["step"], content["generation"]):
        raise Unexpected(f"is of step {content['step']} of generation {content['generation']}, its prefix is not")
    base = content.get("base")
    if base is not None and not attempt.may_build_on(base["prefix"]):
        raise Unexpected(f"is {base['prefix']}, which is no earlier save of this generation", "base")
    bundle = delta_prefix(attempt.prefix) if base else attempt.prefix
    own = {task: local_prefix(attempt.folder, Task.parse(task)) for task in content["world"]}
    names = set()
    for position, each in enumerate(content["objects"]):
        try:
            if each["name"] in names or each["name"] == MANIFEST:
                raise Unexpected(f"is {each['name']!r}, which another object is", "name")
            names.add(each["name"])
            _check_object(attempt, bundle, each, own)
        except Unexpected as error:
            raise error.within(f"objects[{position}]") from None


def _check_object(attempt: Attempt, bundle: str, each: dict[str, Any], own: Mapping[str, str]) -> None:
    """Check the name of an object, and who wrote it, by its role.

    bundle: the prefix of the checkpoint's own tensors.
    own: the prefix of each worker's own bundle, by worker.
    """
    role, task, name = each["role"], each["task"], f"{attempt.folder}/{each['name']}"
    if task is not None and task not in own:
        raise Unexpected(f"is {task}, which is not in the world that saved it", "task")
    match role:
        case "data":
            right = name.startswith(bundle) and bool(_DATA.fullmatch(name.removeprefix(bundle)))
        case "index":
            right = name == index_object(bundle) and task is None
        case "local":
            right = task is not None and name.startswith(f"{own[task]}.")
        case _:
            right = each["name"].startswith(f"{ASSETS}/")
    if not right:
        raise Unexpected(f"is {each['name']!r}, and not that of {role} of {task or 'the coordinator'}", "name")
