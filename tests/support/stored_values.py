"""What lies in committed checkpoints, read without TensorFlow."""

from __future__ import annotations

import numpy as np

from holdfast_storage.checkpoint.index import data_objects, read_index
from holdfast_storage.checkpoint.manifest import read_manifest
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store import Store

NUMBERS = {1: np.float32, 2: np.float64, 3: np.int32, 9: np.int64}
"""By tensorflow.DataType."""


def values_in(store: Store, record: CheckpointRecord, *, but: str = "save_counter") -> set[float]:
    """All different numbers in a checkpoint.

    but: a part of the keys that are left out.
    """
    index = read_index(store, record.prefix, read_manifest(store, record))
    objects, found = data_objects(index, record.prefix), set[float]()
    for key, tensor in index.tensors.items():
        if tensor.dtype in NUMBERS and but not in key:
            for _, entry in index.pieces(key):
                data = bytearray(entry.size)
                store.read_into(objects[entry.shard], entry.offset, memoryview(data))
                found |= set(map(float, np.unique(np.frombuffer(data, NUMBERS[tensor.dtype]))))
    return found
