"""What one task has read of a checkpoint, of which other tasks read the rest, and hands over to TensorFlow.

What was known to be wanted is in memory, and handed over once: TensorFlow takes the memory. Everything else, such as
the values of variables that are created later, is read and verified when it is asked for. What the checkpoint does not
have as it is asked for goes to TensorFlow's own reader, which has an error for it, or a conversion.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable
from typing import Any

import tensorflow as tf

from holdfast.restoring.free_memory import available
from holdfast.restoring.large_tensors import array_of
from holdfast.restoring.parts import Parts
from holdfast.restoring.some_files import SomeFiles
from holdfast.restoring.wants import StoredPiece, Want, needed
from holdfast_storage.bundle.dtypes import VARIANT
from holdfast_storage.lag import Wait

_SHARE = 0.8
"""The share of free memory that values may take. If it is not enough, each is read when it is asked for."""


class Wanted:
    """What a task wants of a checkpoint. The constructor reads and verifies it. May be called by several threads.

    Args:
        parts: the checkpoint.
        wants: what is known to be wanted.
        others: what is to be verified besides.
        files: keys of what TensorFlow's own reader is to find in `files` from the beginning.
        progress, wait: as in `Parts.read`.

    Raises what `Parts.read` raises, here and in every call.
    """

    def __init__(
        self,
        parts: Parts,
        wants: Collection[Want],
        others: Iterable[StoredPiece] = (),
        *,
        files: Collection[str] = (),
        progress: Callable[[int], None] | None = None,
        wait: Wait | None = None,
    ) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._there: set[str] = set()  # keys of what is in the files
        pieces = {piece for want in wants for piece in needed(parts.index, want)}
        if sum(piece.entry.size for piece in pieces) <= available() * _SHARE:
            self._values = parts.read(wants, others, progress=progress, wait=wait)
        else:
            self._values = parts.read((), pieces.union(others), progress=progress, wait=wait)
        self._files: SomeFiles | None = None
        entries = parts.index.tensors
        variants = (w.key for w in wants if w.key in entries and entries[w.key].dtype == VARIANT)
        try:
            self._ensure({key for key in (*files, *variants) if key in entries}, wait)
        except BaseException:
            self.close()
            raise

    @property
    def files(self) -> SomeFiles:
        """The files that TensorFlow's own reader finds."""
        if self._files is None:
            self._files = SomeFiles(self._parts.index)
        return self._files

    def hand_over(self, key: str, spec: str, dtype: Any) -> Any:
        """Return what RestoreV2 would read: an array, or a tensor."""
        want, dtype = Want.of(key, spec), tf.as_dtype(dtype)
        entry = self._parts.index.tensors.get(key)
        if entry is not None and entry.dtype == dtype.as_datatype_enum and dtype != tf.variant:
            value = self._values.pop(want, None) or self._parts.read([want]).get(want)
            if value is not None:
                return array_of(value)
        with self._lock:
            self._ensure({key} if entry is not None else (), None)
            with tf.device(None), tf.device("CPU:0"):
                return tf.raw_ops.RestoreV2(
                    prefix=self.files.prefix, tensor_names=[key], shape_and_slices=[spec], dtypes=[dtype]
                )[0]

    def drop(self) -> None:
        """Let go of what nobody has asked for so far."""
        self._values.clear()

    def close(self) -> None:
        """Release everything."""
        self.drop()
        if self._files is not None:
            self._files.close()

    def _ensure(self, keys: Collection[str], wait: Wait | None) -> None:
        """Have tensors in the files."""
        for key in set(keys) - self._there:
            self.files.put(self._parts.read_stored(key, wait=wait))
            self._there.add(key)
