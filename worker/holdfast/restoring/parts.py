"""Reads parts of a checkpoint, straight to where they are wanted, and verifies every stored piece that it touches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.restoring.contents import MERGED
from holdfast.restoring.places import Places
from holdfast.restoring.wants import StoredPiece, Want, common, needed, stored_pieces, wanted_part, within
from holdfast_storage.bundle import dtypes
from holdfast_storage.bundle.encoded import decode_strings
from holdfast_storage.bundle.index import Index, TensorEntry
from holdfast_storage.bundle.slices import Extents, run_start
from holdfast_storage.checkpoint.chain import Part, read_chain
from holdfast_storage.checkpoint.index import check_sizes
from holdfast_storage.checkpoint.manifest import Manifest
from holdfast_storage.checkpoint.pieces import read_part
from holdfast_storage.checkpoint.verify import verify_checkpoint
from holdfast_storage.errors import CheckpointAbsent
from holdfast_storage.lag import Wait
from holdfast_storage.parallel import in_parallel
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store.base import Store

_ALIGNED = 64
"""Where memory begins that TensorFlow takes over as it is, without a copy: at multiples of so many bytes."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor, or a part of one, that was read and verified."""

    dtype: int  # a tensorflow.DataType, by number
    shape: tuple[int, ...]
    memory: Any  # an array of all bytes, at an aligned address; of strings: an array of bytes objects of that shape


class Parts:
    """A checkpoint of which parts are read, in the calls of `read`.

    The constructor reads manifest and index. Like `read`, it waits for what is absent as `wait` says, and raises:

        CheckpointDamaged: what was read is not what was committed.
        CheckpointAbsent: an object is missing or cut, and no byte is known to be wrong.
        StorageError: the storage did not answer.
        InvalidRequest: a newer Holdfast or TensorFlow wrote the checkpoint.
    """

    def __init__(self, store: Store, record: CheckpointRecord, *, wait: Wait | None = None) -> None:
        self.store, self.record = store, record
        wait = wait or Wait(0.0)
        while True:
            try:
                chain = read_chain(store, record)
                if record.stock:
                    check_sizes(store, chain.newest.index, record.prefix)
                break
            except CheckpointAbsent as error:
                if not wait.again(str(error)):
                    raise
        self.manifest: Manifest | None = chain.newest.manifest
        self.index: Index = chain.merged() if chain.tables else chain.newest.index
        self._chain = chain
        # What a delta has by rows is put together, piece by piece; everything else is stored as it is.
        self._merged: dict[tuple[str, int], Part] = {
            (key, part.begin): part for key, table in chain.tables.items() for part in table.parts
        }

    def read(
        self,
        wants: Iterable[Want],
        others: Iterable[StoredPiece] = (),
        *,
        progress: Callable[[int], None] | None = None,
        wait: Wait | None = None,
    ) -> dict[Want, Value]:
        """Read what is wanted of numbers and strings, and verify other pieces, too.

        The result lacks variants, and what the checkpoint does not have in that shape, or not all of it. Every piece
        that holds something of what is wanted is read and verified, once. What is wanted of it goes straight to its
        memory if it is one run of bytes there and here; otherwise the piece is read to a buffer of its own first.
        """
        targets: dict[Want, _Target] = {}
        going: dict[StoredPiece, list[_Target]] = {piece: [] for piece in others}
        for want in wants:
            pieces = needed(self.index, want)
            target = _Target.of(self.index, want, pieces)
            if target is not None:
                targets[want] = target
            for piece in pieces:
                going.setdefault(piece, []).extend([target] if target is not None else ())
        places, buffers = Places(), dict[StoredPiece, Any]()
        for piece, to in going.items():
            if not self._place(places, piece, to):
                buffers[piece] = self._buffer(places, piece)
        self._read(going, places, progress, wait)
        for piece, buffer in buffers.items():
            for target in going[piece]:
                target.fill(piece, buffer)
        return {want: target.value for want, target in targets.items()}

    def read_stored(self, key: str, *, wait: Wait | None = None) -> Mapping[StoredPiece, Any]:
        """Read the pieces of a tensor, each as it is stored. Raises KeyError if there is no such tensor."""
        places = Places()
        buffers = {piece: self._buffer(places, piece) for piece in stored_pieces(self.index, key)}
        self._read(buffers, places, None, wait)
        return buffers

    def _read(
        self,
        pieces: Iterable[StoredPiece],
        places: Places,
        progress: Callable[[int], None] | None,
        wait: Wait | None,
    ) -> None:
        """Read and verify pieces."""
        advance, wait = progress or (lambda count: None), wait or Wait(0.0)

        def take(name: str, offset: int, chunk: memoryview) -> None:
            for _ in places.take(name, offset, chunk):
                pass  # nobody wants it

        def merge(piece: StoredPiece) -> None:
            entry = piece.entry
            room = places.room(MERGED, entry.offset, entry.size)
            whole = room if room is not None and len(room) == entry.size else None
            memory = read_part(self.store, self._merged[piece.key, piece.extents[0][0]], whole, advance, wait)
            if whole is None:
                take(MERGED, entry.offset, memory)

        merged, stored = list[StoredPiece](), dict[tuple[str, Extents], TensorEntry]()
        for piece in pieces:
            if piece.key in self._chain.tables:
                merged.append(piece)
            else:
                stored[piece.key, piece.extents] = piece.entry
        # It leads to these pieces alone.
        known = Index(self._chain.newest.index.num_shards, {}, stored)
        verify_checkpoint(
            self.store, self.record, known=known, progress=progress, sink=take, room=places.room, wait=wait
        ).raise_if_bad()
        in_parallel(merge, merged, self.store.parallel)

    def _buffer(self, places: Places, piece: StoredPiece) -> Any:
        """Have a whole piece go to memory of its own, which is returned."""
        buffer = _aligned(piece.entry.size)
        places.add(self._object(piece), piece.entry.offset, buffer)
        return buffer

    def _place(self, places: Places, piece: StoredPiece, targets: list[_Target]) -> bool:
        """Have what is wanted of a piece go straight to its targets. Return False if that takes a buffer."""
        runs = [target.run(piece) for target in targets]
        found = sorted((run for run in runs if run is not None), key=lambda run: run[0])
        ends = [begin + len(memory) for begin, memory in found]
        if len(found) < len(runs) or any(begin < end for (begin, _), end in zip(found[1:], ends, strict=False)):
            return False
        for begin, memory in found:
            places.add(self._object(piece), piece.entry.offset + begin, memory)
        return True

    def _object(self, piece: StoredPiece) -> str:
        return MERGED if piece.key in self._chain.tables else self._chain.newest.objects[piece.entry.shard]


@dataclass(frozen=True, slots=True)
class _Target:
    """What is wanted of a tensor, and the memory for it."""

    part: Extents
    value: Value

    @classmethod
    def of(cls, index: Index, want: Want, pieces: Sequence[StoredPiece]) -> _Target | None:
        part = wanted_part(index, want)
        # TensorFlow's own checkpoints may have gaps.
        if part is None or sum(_elements(common(each.extents, part)) for each in pieces) != _elements(part):
            return None
        dtype, shape = index.tensors[want.key].dtype, tuple(length for _, length in part)
        if dtype == dtypes.STRING:
            return cls(part, Value(dtype, shape, np.empty(shape, object)))
        itemsize = dtypes.itemsize(dtype)
        if itemsize is None:
            return None
        return cls(part, Value(dtype, shape, _aligned(math.prod(shape) * itemsize)))

    def run(self, piece: StoredPiece) -> tuple[int, Any] | None:
        """Return where in a piece the wanted bytes begin, and their memory; None if they are no run in one of them."""
        itemsize = dtypes.itemsize(self.value.dtype)
        if itemsize is None:
            return None
        both = common(piece.extents, self.part)
        there = run_start(piece.entry.shape, within(both, piece.extents))
        here = run_start(self.value.shape, within(both, self.part))
        if there is None or here is None:
            return None
        size = _elements(both)
        return there * itemsize, self.value.memory[here * itemsize : (here + size) * itemsize]

    def fill(self, piece: StoredPiece, buffer: Any) -> None:
        """Copy what is wanted of a piece that was read."""
        both = common(piece.extents, self.part)
        there, here = _as_slices(within(both, piece.extents)), _as_slices(within(both, self.part))
        if self.value.dtype == dtypes.STRING:
            found: Any = np.empty(math.prod(piece.entry.shape), object)
            found[:] = decode_strings(memoryview(buffer), len(found))
            self.value.memory[here] = found.reshape(piece.entry.shape)[there]
            return
        itemsize = dtypes.itemsize(self.value.dtype)
        to = self.value.memory.reshape(*self.value.shape, itemsize)
        to[here] = buffer.reshape(*piece.entry.shape, itemsize)[there]


def _elements(part: Extents) -> int:
    return math.prod(length for _, length in part)


def _as_slices(part: Extents) -> tuple[slice, ...]:
    return tuple(slice(start, start + length) for start, length in part)


def _aligned(size: int) -> Any:
    """Return an array of so many bytes that TensorFlow can take over."""
    raw: Any = np.empty(size + _ALIGNED, np.uint8)
    start = -raw.ctypes.data % _ALIGNED
    return raw[start : start + size]
