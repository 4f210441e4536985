"""The state of a checkpoint at one moment, without copying it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from holdfast.plan import Spec


@dataclass(frozen=True, slots=True)
class SnapshotTensor:
    """One tensor under its stock key."""

    key: str
    dtype: int
    shape: tuple[int, ...]
    data: memoryview | bytes  # its bytes as a checkpoint holds them
    guarded: bool = False  # must be equal on all workers: a trainable variable, or an optimizer's
    encoded_crc32c: int | None = None  # strings and variants: TensorFlow's own masked CRC

    @property
    def spec(self) -> Spec:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Snapshot:
    tensors: tuple[SnapshotTensor, ...]  # by key bytes; a position is an index in here
    object_graph: SnapshotTensor
    replicas: tuple[SnapshotTensor, ...]  # under `<key>/.REPLICA/<i>`
    collective: bool


def capture(checkpoint: Any, scratch: str | None = None) -> Snapshot:
    raise NotImplementedError
