"""What a worker tells of its state before a byte is written."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.plan import Spec
from holdfast.snapshot import SnapshotTensor


def spec_digest(specs: Sequence[Spec]) -> bytes:
    raise NotImplementedError


def tensor_crcs(tensors: Sequence[SnapshotTensor], threads: int = 2) -> tuple[int, ...]:
    raise NotImplementedError


def pack(crcs: Sequence[int]) -> bytes:
    raise NotImplementedError
