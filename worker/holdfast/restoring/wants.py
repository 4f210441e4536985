"""What tasks want of a checkpoint, and who reads the rest of it.

All of this is a pure function of the checkpoint's index and of what every task wants. So all tasks that know these come
to the same result, and every stored piece is read and verified by somebody, without a word between them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from holdfast_storage.bundle.index import Index, TensorEntry
from holdfast_storage.bundle.slices import Extents, encode_name, parse_spec


@dataclass(frozen=True, slots=True)
class Want:
    """A tensor that a task needs, or a part of it."""

    key: str
    part: tuple[tuple[int, ...], Extents] | None = None
    """The shape of the whole tensor, and which part of it. None: all of it, whatever its shape."""

    @classmethod
    def of(cls, key: str, spec: str) -> Want:
        """Return what TensorFlow's RestoreV2 is asked for. Raises ValueError if the specification is none."""
        return cls(key, parse_spec(spec))


@dataclass(frozen=True, slots=True)
class StoredPiece:
    """A tensor, or a part of one, that is stored with a checksum of its own. It is always read whole."""

    extents: Extents  # within its tensor
    entry: TensorEntry

    @property
    def key(self) -> str:
        return self.entry.key


def stored_pieces(index: Index, key: str) -> list[StoredPiece]:
    """Return the pieces of a tensor. Raises KeyError if there is none."""
    whole = _whole(index.tensors[key].shape)
    return [StoredPiece(whole if extents is None else extents, entry) for extents, entry in index.pieces(key)]


def wanted_part(index: Index, want: Want) -> Extents | None:
    """Return what is wanted of a stored tensor; None if the checkpoint does not have it in that shape."""
    entry = index.tensors.get(want.key)
    if entry is None:
        return None
    if want.part is None:
        return _whole(entry.shape)
    shape, extents = want.part
    inside = all(first >= 0 and first + length <= size for (first, length), size in zip(extents, shape, strict=True))
    return extents if inside and shape == entry.shape else None


def needed(index: Index, want: Want) -> list[StoredPiece]:
    """Return the pieces that hold something of what is wanted."""
    part = wanted_part(index, want)
    return [] if part is None else [each for each in stored_pieces(index, want.key) if overlap(each.extents, part)]


def unwanted(index: Index, wanted: Iterable[Want], tasks: int) -> list[list[StoredPiece]]:
    """Deal out the pieces of which nobody wants anything, in about equal shares, one for each of so many tasks."""
    parts: dict[str, set[Extents]] = defaultdict(set)
    for want in wanted:
        if (part := wanted_part(index, want)) is not None:
            parts[want.key].add(part)
    left = [piece for key in index.tensors for piece in _untouched(stored_pieces(index, key), parts.get(key, set()))]
    left.sort(key=lambda piece: (-piece.entry.size, encode_name(piece.key), piece.extents))
    sizes, shares = [0] * tasks, [list[StoredPiece]() for _ in range(tasks)]
    for piece in left:
        least = sizes.index(min(sizes))
        shares[least].append(piece)
        sizes[least] += piece.entry.size
    return shares


def _untouched(pieces: Iterable[StoredPiece], parts: set[Extents]) -> Iterator[StoredPiece]:
    """Yield the pieces that overlap no part. There may be very many of both, so only those that come near each other
    along the first dimension are compared."""
    ordered = sorted(parts)
    starts = [part[0][0] if part else 0 for part in ordered]
    ends = list(accumulate((sum(part[0]) if part else 1 for part in ordered), max))
    for piece in pieces:
        first, length = piece.extents[0] if piece.extents else (0, 1)
        near = ordered[bisect_right(ends, first) : bisect_left(starts, first + length)]
        if not any(overlap(piece.extents, part) for part in near):
            yield piece


def overlap(one: Extents, other: Extents) -> bool:
    """Return whether two parts of a tensor have an element in common."""
    return all(max(a, b) < min(a + m, b + n) for (a, m), (b, n) in zip(one, other, strict=True))


def common(one: Extents, other: Extents) -> Extents:
    """Return what two parts that overlap have in common."""
    starts = [max(a, b) for (a, _), (b, _) in zip(one, other, strict=True)]
    ends = [min(a + m, b + n) for (a, m), (b, n) in zip(one, other, strict=True)]
    return tuple((start, end - start) for start, end in zip(starts, ends, strict=True))


def within(part: Extents, outer: Extents) -> Extents:
    """Return a part of a tensor as a part of another part of it, in which it lies."""
    return tuple((start - first, length) for (start, length), (first, _) in zip(part, outer, strict=True))


def _whole(shape: tuple[int, ...]) -> Extents:
    return tuple((0, size) for size in shape)
