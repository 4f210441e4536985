"""The large tensors of a checkpoint, read straight into TensorFlow's memory and given to its restore as they are.

So what was read for the verification need not be read again, from files that would be one more copy of the state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from holdfast.restoring.contents import Bundle
from holdfast.restoring.parts import Value
from holdfast.restoring.places import Places
from holdfast.restoring.wants import Want
from holdfast.tensorflow_internals import VALUE_SUFFIX, memory_of, restore_v2, serve, stop_serving
from holdfast_storage.bundle.dtypes import are_slices_joined
from holdfast_storage.bundle.index import Index
from holdfast_storage.bundle.slices import run_start

LARGE = 64 << 10
"""The fewest bytes of a tensor that is read this way. TensorFlow makes an empty one in the time of reading this one."""

EMPTY_DIMENSION = 2**31 - 1
"""The largest dimension with which TensorFlow makes an empty tensor. With a larger one it must be filled, too."""

_DTYPES = (
    *(tf.bool, tf.float16, tf.bfloat16, tf.float32, tf.float64, tf.complex64, tf.complex128),
    *(tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64),
)


class Values:
    """The large tensors of some bundles. They are made here, and filled by whoever reads the objects, each byte once.

    Several threads may call it at once, for bytes that do not overlap.
    """

    def __init__(self, bundles: Mapping[str, Bundle], sizes: Mapping[str, int] | None) -> None:
        """
        bundles: the bundles by the prefix that TensorFlow gets. In each of them no two tensors share bytes.
        sizes: the bytes of all objects that will be read; None: as many as the tensors need.
        """
        stored = [(prefix, *each) for prefix, bundle in bundles.items() for each in _stored(bundle)]
        self._places = Places()
        self._joined: set[str] = set()  # keys of what the files do not serve for
        made: dict[_Stored, Any] = {}
        self._tensors: dict[str, dict[str, Any]] = {prefix: {} for prefix in bundles}
        for prefix, key, what in stored:
            if not what.is_large or VALUE_SUFFIX not in key or not what.is_read(sizes):
                continue
            if what not in made:
                made[what], memory = _empty(what)
                for each in what.ranges:
                    self._places.add(each.object, each.begin, memory[each.at : each.at + each.size])
            self._tensors[prefix][key] = made[what]

    def room(self, name: str, offset: int, size: int) -> memoryview | None:
        """As `Places.room`."""
        return self._places.room(name, offset, size)

    def take(self, name: str, offset: int, chunk: memoryview) -> Iterator[tuple[int, memoryview]]:
        """As `Places.take`: yield what belongs to no large tensor."""
        return self._places.take(name, offset, chunk)

    def join(self, prefix: str, index: Index, read: Callable[[Sequence[Want]], Mapping[Want, Value]]) -> None:
        """Have what lies in slices that TensorFlow cannot join, such as strings of parameter servers.

        read: reads and verifies tensors.
        """
        wants = [
            Want(key)
            for key, entry in index.tensors.items()
            if entry.slices and key not in self._tensors[prefix]
            if not are_slices_joined(entry.dtype, len(entry.shape))
        ]
        for want, value in (read(wants) if wants else {}).items():
            with tf.init_scope(), tf.device(None), tf.device("CPU:0"):
                self._tensors[prefix][want.key] = tf.constant(array_of(value))
            self._joined.add(want.key)

    def hold(self) -> None:
        """Let TensorFlow take these tensors, which are all filled, from now on."""
        self._places.clear()  # they would count as users of the memory, and no variable could be updated in place
        serve(self._tensors)

    def let_files_do(self) -> None:
        """Let TensorFlow read the bundles' files again, as far as it can."""
        if not self._joined:
            self.let_go()
        for tensors in self._tensors.values():
            for key in tensors.keys() - self._joined:
                del tensors[key]

    def let_go(self) -> None:
        """Let TensorFlow read the bundles' files again."""
        stop_serving(self._tensors)
        self._tensors.clear()
        self._places.clear()


def array_of(value: Value) -> Any:
    """Return a value as an array that TensorFlow can take over."""
    if value.memory.dtype == object:
        return value.memory
    dtype: Any = np.dtype(tf.as_dtype(value.dtype).as_numpy_dtype)
    return value.memory.view(dtype).reshape(value.shape)


def read_value(prefix: str, key: str, dtype: Any) -> Any:
    """Read a tensor of a staged bundle."""
    return restore_v2(prefix, [key], [""], [dtype])[0]


@dataclass(frozen=True, slots=True)
class _Range:
    """Bytes of an object, and where in the tensor they belong; -1 if they are not one run there."""

    object: str
    begin: int
    size: int
    at: int

    @property
    def end(self) -> int:
        return self.begin + self.size


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor and the places of all its bytes."""

    dtype: int
    shape: tuple[int, ...]
    ranges: tuple[_Range, ...]

    @property
    def is_large(self) -> bool:
        """Whether reading it this way is worth while, and its memory consists of these ranges.

        It also is for small tensors whose slices TensorFlow cannot join; older checkpoints have such slices.
        """
        size = sum(each.size for each in self.ranges)
        whole = size == math.prod(self.shape) * _itemsize(self.dtype) and all(each.at >= 0 for each in self.ranges)
        in_slices = len(self.ranges) > 1
        needed = in_slices and not are_slices_joined(self.dtype, len(self.shape))
        return whole and (size >= LARGE or needed)

    def is_read(self, sizes: Mapping[str, int] | None) -> bool:
        """Return whether all of it will be read: nothing is beyond the end of an object, or in one that is not read."""
        return sizes is None or all(each.end <= sizes.get(each.object, 0) for each in self.ranges)


def _stored(bundle: Bundle) -> Iterator[tuple[str, _Stored]]:
    """Yield all tensors of a bundle, with their keys."""
    for key, entry in bundle.index.tensors.items():
        ranges = []
        for extents, piece in bundle.index.pieces(key):
            start = 0 if extents is None else run_start(entry.shape, extents)
            at = -1 if start is None else start * _itemsize(entry.dtype)
            ranges.append(_Range(bundle.objects[piece.shard], piece.offset, piece.size, at))
        yield key, _Stored(entry.dtype, entry.shape, tuple(ranges))


def _itemsize(number: int) -> int:
    """Return the bytes of an element in memory; 0 for a dtype whose tensors are not made here."""
    try:
        dtype = tf.as_dtype(number)
    except TypeError:
        return 0
    return int(dtype.size) if dtype in _DTYPES else 0


def _empty(what: _Stored) -> tuple[Any, Any]:
    """Return an empty tensor and its memory, as an array of bytes. Raises MemoryError if there is none."""
    dtype = tf.as_dtype(what.dtype)
    # On the CPU, whatever the caller's device is: the memory of a tensor elsewhere would be a copy.
    with tf.init_scope(), tf.device(None), tf.device("CPU:0"):
        try:
            if max(what.shape, default=0) <= EMPTY_DIMENSION:
                tensor = tf.raw_ops.Empty(shape=what.shape, dtype=dtype)
            else:
                tensor = tf.raw_ops.Fill(dims=tf.constant(what.shape, tf.int64), value=tf.zeros([], dtype))
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(str(error)) from error
        # The same memory: Python has no name for this dtype.
        readable = tf.bitcast(tensor, tf.uint16) if dtype == tf.bfloat16 else tensor
    return tensor, memory_of(readable)
