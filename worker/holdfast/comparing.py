"""How the tensors of two checkpoints differ.

Parts are read whole, since their checksums are those of whole parts, and each is verified. A few are in memory at a
time. What both checkpoints have in one place of one store is the same without being read: no object is ever written
twice. Equal checksums of different places prove nothing: two contents in four billion pairs share a CRC32C by chance,
and anybody can make more. See docs/design/034-versions.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast_storage.bundle import dtypes
from holdfast_storage.bundle.slices import Extents
from holdfast_storage.checkpoint.chain import Part
from holdfast_storage.checkpoint.contents import Contents, Tensor
from holdfast_storage.checkpoint.pieces import Progress
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.parallel import in_parallel

_THREADS = 4  # tensors at a time
_BLOCK = 1 << 17  # elements that are computed with at a time
_MOST_DIMENSIONS = 32  # numpy's, in all its releases

_NUMPY = {
    "bool": "u1",
    "bfloat16": "<u2",
    "qint8": "i1",
    "quint8": "u1",
    "qint16": "<i2",
    "quint16": "<u2",
    "qint32": "<i4",
}
_NUMPY |= {"int4": "i1", "uint4": "u1", "int2": "i1", "uint2": "u1"}  # stored one to a byte


@dataclass(frozen=True, slots=True)
class Difference:
    """How a tensor differs that both checkpoints have with one dtype and shape.

    The norms are those of B - A over the elements for which it is a finite number. They are None for strings and other
    dtypes with which nobody computes.
    """

    elements: int  # whose bytes differ. Of a dtype without elements of one size: 1, the tensor
    l2: float | None = None
    max_abs: float | None = None
    relative: float | None = None  # l2 by the norm of A; None also if that is zero
    not_finite: int = 0  # elements that differ, and whose difference is no finite number


def to_read(a: Contents, b: Contents) -> int:
    """Return the bytes to read for a comparison, about."""
    return sum(_size(part) for key in _comparable(a, b) for side in (a, b) for part in side.tensors[key].parts)


def compare(a: Contents, b: Contents, progress: Progress) -> dict[tuple[str, str], Difference]:
    """Return how the tensors differ that both have with one dtype and shape, without those that are the same.

    progress: is called from several threads.

    Raises CheckpointAbsent, CheckpointDamaged or StorageError, which names the object.
    """
    keys = list(_comparable(a, b))
    found = in_parallel(lambda key: _compare(a, b, key, progress), keys, min(_THREADS, a.store.parallel))
    return {key: each for key, each in zip(keys, found, strict=True) if each.elements}


def _comparable(a: Contents, b: Contents) -> Iterator[tuple[str, str]]:
    """Yield what has to be read."""
    one_store = a.store.url == b.store.url
    for key, tensor in a.tensors.items():
        other = b.tensors.get(key)
        if other is None or (tensor.dtype, tensor.shape) != (other.dtype, other.shape):
            continue
        if not (one_store and tensor.parts == other.parts):
            yield key


def _compare(a: Contents, b: Contents, key: tuple[str, str], progress: Progress) -> Difference:
    one, other = a.tensors[key], b.tensors[key]
    if 0 in one.shape:
        return Difference(0)
    dtype, alike = _numpy(one.dtype), [part.extents for part in one.parts] == [part.extents for part in other.parts]
    if not alike and (dtype is None or len(one.shape) > _MOST_DIMENSIONS):
        told = f"{key[1]} is in other slices in each of the checkpoints, and cannot be put together"
        raise InvalidRequest(f"{told}: it is {dtypes.name(one.dtype)} of {len(one.shape)} dimensions", object=key[1])
    if dtype is None:
        pairs = zip(one.parts, other.parts, strict=True)
        return Difference(0 if all(a.read(p, progress) == b.read(q, progress) for p, q in pairs) else 1)
    sums = _Sums(dtypes.name(one.dtype))
    at: tuple[Part | None, memoryview] = None, memoryview(b"")  # the part of B that was read last
    for first in sorted(one.parts, key=lambda part: part.extents or ()):
        left, here = a.read(first, progress), _extents(one, first)
        for second in sorted(other.parts, key=lambda part: part.extents or ()):
            common = _common(here, there := _extents(other, second))
            if common is None:
                continue
            if at[0] is not second:
                at = None, memoryview(b"")  # its memory is free before there is more
                at = second, b.read(second, progress)
            sums.add(_cut(left, dtype, here, common), _cut(at[1], dtype, there, common))
    return sums.difference()


class _Sums:
    """What is known of a difference so far."""

    def __init__(self, dtype: str) -> None:
        self._dtype = dtype
        self._elements = self._not_finite = 0
        self._l2 = self._norm = self._max = 0.0

    def add(self, a: Any, b: Any) -> None:
        """Add elements of A and, from the same places, of B."""
        for begin in range(0, len(a), _BLOCK):
            self._add(a[begin : begin + _BLOCK], b[begin : begin + _BLOCK])

    def _add(self, a: Any, b: Any) -> None:
        word = f"u{min(a.itemsize, 8)}"
        differ = (a.view(word) != b.view(word)).reshape(len(a), -1).any(axis=1)
        self._elements += int(np.count_nonzero(differ))
        if not self._computes:
            return
        first = _widened(a, self._dtype)
        self._norm = math.hypot(self._norm, _norm(first[np.isfinite(first)]))
        with np.errstate(over="ignore", invalid="ignore"):
            delta = _widened(b[differ], self._dtype) - first[differ]
        finite = delta[np.isfinite(delta)]
        self._not_finite += len(delta) - len(finite)
        self._l2 = math.hypot(self._l2, _norm(finite))
        self._max = max(self._max, float(np.abs(finite).max(initial=0.0)))

    @property
    def _computes(self) -> bool:
        return not self._dtype.startswith(("float8", "float4"))

    def difference(self) -> Difference:
        if not self._computes:
            return Difference(self._elements)
        relative = self._l2 / self._norm if self._norm else None
        return Difference(self._elements, self._l2, self._max, relative, self._not_finite)


def _norm(values: Any) -> float:
    """Return the root of the sum of squares, which overflows only if it is itself too large."""
    largest = float(np.abs(values).max(initial=0.0))
    if largest in (0.0, math.inf):
        return largest
    return largest * float(np.sqrt(np.square(np.abs(values / largest)).sum()))


def _widened(values: Any, dtype: str) -> Any:
    """Return numbers as float64 or complex128."""
    if dtype == "bfloat16":
        values = (values.astype("<u4") << 16).view("<f4")
    with np.errstate(invalid="ignore"):
        return values.astype(np.complex128 if dtype.startswith("complex") else np.float64)


def _numpy(number: int) -> Any:
    """Return the dtype of numpy that has the elements of a tensor as they are stored; None if there is none."""
    size, name = dtypes.itemsize(number), dtypes.name(number)
    if size is None:
        return None
    if name.startswith(("float8", "float4")):
        return np.dtype("u1")
    return np.dtype(_NUMPY[name]) if name in _NUMPY else np.dtype(name).newbyteorder("<")


def _cut(memory: memoryview, dtype: Any, extents: Extents, common: Extents) -> Any:
    """Return the elements of a part that are in another slice as well, in one dimension."""
    elements = np.frombuffer(memory, dtype)
    if extents == common:
        return elements
    within = tuple(slice(i - o, i - o + length) for (i, length), (o, _) in zip(common, extents, strict=True))
    return elements.reshape([length for _, length in extents])[within].reshape(-1)


def _extents(tensor: Tensor, part: Part) -> Extents:
    return tuple((0, size) for size in tensor.shape) if part.extents is None else part.extents


def _common(a: Extents, b: Extents) -> Extents | None:
    """Return what two slices have in common, if that is anything."""
    begins = [max(i, j) for (i, _), (j, _) in zip(a, b, strict=True)]
    ends = [min(i + m, j + n) for (i, m), (j, n) in zip(a, b, strict=True)]
    common = tuple((begin, end - begin) for begin, end in zip(begins, ends, strict=True))
    return common if all(length > 0 for _, length in common) else None


def _size(part: Part) -> int:
    return part.whole.entry.size + sum(c.rows.entry.size + c.values.entry.size for c in part.changes)
