"""The plan, which says which worker writes which bytes. All workers compute the same one and need not ask.

All tensors lie on one line of bytes in key order. The line is cut into equal parts, one for each worker, and each part
into the objects that its worker writes at the same time. If it costs little balance, a cut moves to the next border
between two tensors. Otherwise it moves to a whole number of rows, and the tensor is stored in slices. What only the
chief writes (worker-local values under their stock keys, strings, variants) comes first, and the chief's part of the
rest is smaller by that. The plan uses only integers, so it is the same on every machine. See docs/design/003-plan.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod

from holdfast_storage.bundle import dtypes

Extents = tuple[tuple[int, int], ...]
"""A slice of a tensor: start and length along each dimension."""

_MIB = 1 << 20
_TOLERANCE_FLOOR = 16 * 1024  # bytes by which a part may always be off: nothing is sliced for less
_SPLIT_FROM = 16 * _MIB  # a smaller part of a worker is one object
_OBJECT_SIZE = 128 * _MIB
_MAX_OBJECTS = 64  # objects of a worker; beyond that, objects grow


@dataclass(frozen=True, slots=True)
class Spec:
    """What all workers must agree on for one tensor, and its size."""

    key: str
    dtype: int  # a tensorflow.DataType, by number
    shape: tuple[int, ...]  # () for a variant, whose shape may differ between workers
    size: int  # in bytes; that of an encoded tensor counts only if it is the same on all workers
    encoded: bool = False  # stored in an encoding of TensorFlow's own (strings, variants): the chief's, never sliced


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of bytes of one tensor in one object."""

    position: int  # of the tensor, in key order
    extents: Extents | None  # None: the whole tensor
    begin: int  # the run, in bytes of the tensor in row-major order
    end: int
    offset: int  # its offset in the object

    @property
    def first_row(self) -> int:
        """The row of the tensor with which it begins."""
        return self.extents[0][0] if self.extents else 0


@dataclass(frozen=True, slots=True)
class DataObject:
    """One object of a worker. In the chief's first object, the encoded tensors follow the pieces."""

    shard: int
    pieces: tuple[Piece, ...]  # back to back, from offset 0

    @property
    def size(self) -> int:
        """Bytes of all pieces."""
        return self.pieces[-1].offset + self.pieces[-1].end - self.pieces[-1].begin if self.pieces else 0


@dataclass(frozen=True, slots=True)
class Part:
    """What one worker writes. The chief's part has at least one object; others may have none."""

    objects: tuple[DataObject, ...]

    @property
    def size(self) -> int:
        """Bytes of all pieces."""
        return sum(o.size for o in self.objects)


@dataclass(frozen=True, slots=True)
class Plan:
    """Who writes what. Every byte of every numeric tensor is in exactly one piece."""

    parts: tuple[Part, ...]  # by worker; the chief is the first
    num_shards: int
    sliced: dict[int, tuple[Extents, ...]]  # position -> all slices of the tensor, in order of bytes


def plan(specs: Sequence[Spec], num_workers: int, by_chief: Collection[int] = ()) -> Plan:
    """Divide the tensors among the workers.

    Args:
        specs: the specs of all tensors, in key order.
        num_workers: the number of workers, at least 1.
        by_chief: the positions of tensors that only the chief writes, such as worker-local ones.

    Returns:
        The plan. Parts differ by at most 5 % or 64 KiB, with two exceptions: the chief's own tensors may exceed its
        share, and tensors whose slices TensorFlow cannot join may add the size of the two largest of them. A tensor is
        sliced only if it is larger than about a hundredth of a part, and not in `by_chief`.
    """
    if num_workers < 1:
        raise ValueError(f"there is no world of {num_workers} workers")
    by_chief = frozenset(by_chief)
    numeric = [position for position, spec in enumerate(specs) if not spec.encoded]
    line = Line(specs, [p for p in numeric if p in by_chief], [p for p in numeric if p not in by_chief])
    # An encoded tensor has another size on every worker, and so cannot be counted by all alike.
    encoded = sum(spec.size for position, spec in enumerate(specs) if spec.encoded and position not in by_chief)

    segments: list[list[int]] = []  # by worker: ends of its objects on the line
    ends = _ends_of_parts(line, num_workers, encoded)
    for worker, (begin, end) in enumerate(pairwise([0, *ends])):
        if worker == 0:
            segments.append(ends_of_objects(line, begin, end, encoded))
        else:
            segments.append(ends_of_objects(line, begin, end, 0) if begin < end else [])
    runs = line.divide([end for part in segments for end in part])

    extents_of = {p: _slices(specs[p], parts) for p, parts in _by_tensor(runs).items() if len(parts) > 1}
    parts, shard = [], 0
    for ends_of_part in segments:
        objects = []
        for _ in ends_of_part:
            objects.append(DataObject(shard, tuple(_pieces(runs[shard], extents_of))))
            shard += 1
        parts.append(Part(tuple(objects)))
    sliced = {p: tuple(e for run in slices.values() for e, _, _ in run) for p, slices in extents_of.items()}
    return Plan(tuple(parts), shard, sliced)


def row_size(spec: Spec) -> int:
    """Return the bytes of a row of numbers: of all elements with one first index."""
    return prod(spec.shape[1:]) * (dtypes.itemsize(spec.dtype) or 0)


_Run = tuple[int, int, int]  # position, begin, end


class Line:
    """The tensors back to back: first those that only the chief writes, then the others."""

    def __init__(self, specs: Sequence[Spec], whole: list[int], others: list[int]) -> None:
        self._specs = specs
        self._order = whole + others
        self._ends = list(accumulate(specs[p].size for p in self._order))
        self.size = self._ends[-1] if self._ends else 0
        self.whole = sum(specs[p].size for p in whole)

    def snap(self, target: int, tolerance: int) -> int:
        """Return the best cut near `target`: within `tolerance`, except inside a tensor that cannot be cut."""
        index = bisect_right(self._ends, target)
        if index == len(self._ends):
            return self.size
        spec = self._specs[self._order[index]]
        begin, end = self._ends[index] - spec.size, self._ends[index]
        border = begin if target - begin <= end - target else end
        if abs(border - target) <= tolerance or target < self.whole or not _may_be_cut(spec):
            return border
        unit = _unit(spec, tolerance)
        return begin + (target - begin + unit // 2) // unit * unit

    def divide(self, ends: list[int]) -> list[list[_Run]]:
        """Return the runs between cuts. A tensor without bytes is in exactly one of them, too."""
        runs: list[list[_Run]] = [[] for _ in ends]
        segment, here = 0, 0
        for position in self._order:
            size, done = self._specs[position].size, 0
            while True:
                while done < size and here >= ends[segment]:
                    segment += 1
                step = min(size - done, ends[segment] - here)
                runs[segment].append((position, done, done + step))
                done, here = done + step, here + step
                if done == size:
                    break
        return runs


def _ends_of_parts(line: Line, num_workers: int, encoded: int) -> list[int]:
    """Return the end of each worker's part of the line."""
    total = line.size + encoded
    chief = max(line.whole, total // num_workers - encoded, 0)
    share = (line.size - chief) // max(1, num_workers - 1)
    # Each of a part's two cuts may be off by this, so the largest and the smallest part differ by up to 4 / 128.
    tolerance = max(_TOLERANCE_FLOOR, share // 128)
    ends: list[int] = []
    for worker in range(1, num_workers):
        target = chief + (line.size - chief) * (worker - 1) // (num_workers - 1)
        ends.append(max(line.snap(target, tolerance), ends[-1] if ends else line.whole))
    return [*ends, line.size]


def ends_of_objects(line: Line, begin: int, end: int, encoded: int) -> list[int]:
    """Return the ends of the objects of one part, if `encoded` bytes of the first object are not on the line."""
    size = end - begin + encoded
    count = 1 if size < _SPLIT_FROM else min(max(2, -(-size // _OBJECT_SIZE)), _MAX_OBJECTS)
    ends: list[int] = []
    for number in range(1, count):
        target = begin + max(0, size * number // count - encoded)
        cut = line.snap(target, size // count // 8)
        if (ends[-1] if ends else begin) < cut < end:
            ends.append(cut)
    return [*ends, end]


def _may_be_cut(spec: Spec) -> bool:
    return dtypes.are_slices_joined(spec.dtype, len(spec.shape))


def _unit(spec: Spec, limit: int) -> int:
    """Return the bytes of the largest block of whole rows, or of rows of rows, of at most `limit` bytes."""
    item = spec.size // prod(spec.shape)
    return next((u for d in range(1, len(spec.shape)) if (u := prod(spec.shape[d:]) * item) <= limit), item)


def _by_tensor(runs: list[list[_Run]]) -> dict[int, list[tuple[int, int]]]:
    parts: dict[int, list[tuple[int, int]]] = {}
    for run in runs:
        for position, begin, end in run:
            parts.setdefault(position, []).append((begin, end))
    return parts


def _slices(spec: Spec, parts: list[tuple[int, int]]) -> dict[int, list[tuple[Extents, int, int]]]:
    """Return the slices of each run of a tensor, with their bytes, by the beginning of the run."""
    item = spec.size // prod(spec.shape)
    slices: dict[int, list[tuple[Extents, int, int]]] = {}
    for begin, end in parts:
        here, found = begin, []
        for extents in boxes(spec.shape, begin // item, end // item):
            size = prod(length for _, length in extents) * item
            found.append((extents, here, here + size))
            here += size
        slices[begin] = found
    return slices


def boxes(shape: tuple[int, ...], begin: int, end: int) -> Iterator[Extents]:
    """Yield the fewest boxes, back to back in row-major order, that make up a run of elements."""
    row = prod(shape[1:])
    if begin % row == 0 and end % row == 0:
        yield ((begin // row, (end - begin) // row), *((0, length) for length in shape[1:]))
        return
    while begin < end:
        index = begin // row
        full = end // row * row
        if begin % row == 0 and full > begin:
            yield from boxes(shape, begin, full)
            begin = full
        else:
            stop = min(end, (index + 1) * row)
            for extents in boxes(shape[1:], begin - index * row, stop - index * row):
                yield ((index, 1), *extents)
            begin = stop


def _pieces(run: list[_Run], extents_of: dict[int, dict[int, list[tuple[Extents, int, int]]]]) -> Iterator[Piece]:
    offset = 0
    for position, begin, end in run:
        if position not in extents_of:
            yield Piece(position, None, begin, end, offset)
        else:
            for extents, first, last in extents_of[position][begin]:
                yield Piece(position, extents, first, last, offset + first - begin)
        offset += end - begin
