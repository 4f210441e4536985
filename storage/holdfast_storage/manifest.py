"""manifest.json: a checkpoint's folder describes itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast_storage.records import CheckpointRecord, Task
from holdfast_storage.store.base import Store


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """One object of a checkpoint."""

    name: str  # relative to the checkpoint's folder
    size: int
    crc32c: int
    role: str  # "data", "index", "local", "asset"
    task: Task | None = None  # who wrote it; None: the coordinator


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a committed checkpoint consists of, and where it comes from."""

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
    metadata: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    local_keys: tuple[
        str, ...
    ] = ()  # stock keys whose value is worker-local: the chief's there, each worker's own in local/

    def to_bytes(self) -> bytes:
        raise NotImplementedError

    @classmethod
    def parse(cls, data: bytes, name: str = "manifest.json") -> Manifest:
        raise NotImplementedError


def read_manifest(store: Store, record: CheckpointRecord) -> Manifest:
    """The manifest that the log vouches for. CheckpointDamaged if missing, not the one committed, or malformed."""
    raise NotImplementedError
