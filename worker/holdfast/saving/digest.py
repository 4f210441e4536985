"""The digests that workers compare before a byte is written: of the tensors' specs, and of every tensor's bytes."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from holdfast.saving.plan import Spec
from holdfast.saving.snapshot import SnapshotTensor
from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.parallel import in_parallel

_BATCH_BYTES = 32 << 20


def spec_digest(specs: Sequence[Spec], *options: str) -> bytes:
    """Return the SHA-256 of keys, dtypes and shapes, and of the options that must be the same on all workers.

    Sizes are left out: those of encoded tensors may differ, and the others follow from dtype and shape.
    """
    digest = hashlib.sha256()
    for option in options:
        digest.update(_framed(option))
    digest.update(struct.pack("<Q", len(specs)))
    for spec in specs:
        digest.update(_framed(spec.key))
        digest.update(struct.pack(f"<iB{len(spec.shape)}q", spec.dtype, len(spec.shape), *spec.shape))
    return digest.digest()


def tensor_crcs(tensors: Sequence[SnapshotTensor], threads: int = 2) -> tuple[int, ...]:
    """Return the unmasked CRC32C of each tensor's bytes."""
    batches: list[list[SnapshotTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if size > _BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(tensor)
        size += len(tensor.data)
    found = in_parallel(lambda batch: [crc32c(t.data) for t in batch], batches, threads)
    return tuple(crc for batch in found for crc in batch)


def pack(crcs: Sequence[int]) -> bytes:
    """Encode checksums for a vote: little-endian, four bytes each."""
    return struct.pack(f"<{len(crcs)}I", *crcs)


def _framed(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data
