"""A bundle that TensorFlow can open, of which only some tensors are there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.restoring.contents import MAIN
from holdfast.restoring.wants import StoredPiece
from holdfast.scratch import make_folder, remove_folder
from holdfast_storage.bundle.index import Index, write_index
from holdfast_storage.layout import data_object, index_object


class SomeFiles:
    """The whole index of a checkpoint, and nameless files in memory for the tensors that are put there."""

    def __init__(self, index: Index) -> None:
        self.folder = Path(make_folder())
        self.prefix = str(self.folder / MAIN)
        self._num_shards = index.num_shards
        self._files: dict[int, int] = {}  # descriptors, by shard
        self._process = os.getpid()
        records = ((key, entry.SerializeToString()) for key, entry in index.records())
        Path(index_object(self.prefix)).write_bytes(write_index(index.num_shards, records))

    def put(self, pieces: Mapping[StoredPiece, Any]) -> None:
        """Have these pieces in the files, each with its bytes as they are stored."""
        for piece, data in pieces.items():
            shard, offset, left = piece.entry.shard, piece.entry.offset, memoryview(data)
            if shard not in self._files:
                self._files[shard] = os.memfd_create("holdfast", os.MFD_CLOEXEC)
                os.symlink(f"/dev/fd/{self._files[shard]}", data_object(self.prefix, shard, self._num_shards))
            while left:
                written = os.pwrite(self._files[shard], left, offset)
                left, offset = left[written:], offset + written

    def close(self) -> None:
        """Remove what is here."""
        if os.getpid() == self._process:  # a fork has its own descriptors, but the folder is its parent's
            remove_folder(str(self.folder))
        while self._files:
            os.close(self._files.popitem()[1])
