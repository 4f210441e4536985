"""A checkpoint of TensorFlow's own that takes no room: a sharding callback keeps from it what is saved otherwise."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import tensorflow as tf

from holdfast.saving.iterators import check_iterators
from holdfast.saving.snapshot import SnapshotTensor
from holdfast_protos.v1.bundle_pb2 import BundleEntry
from holdfast_storage import layout
from holdfast_storage.bundle.index import Index, header_record
from holdfast_storage.errors import InvalidRequest

_STUB = "stub"


def write_stub(
    checkpoint: Any, callback: Any, device: str | None = None
) -> tuple[list[SnapshotTensor], list[tuple[bytes, BundleEntry]]]:
    """Have TensorFlow write what a sharding callback lets pass, and return it as it was written: strings, variants, and
    the values of savers that users have registered. Of what is in slices, also return the headers for the index.

    device: where TensorFlow writes, if not where the values are.

    Raises InvalidRequest for what cannot be saved.
    """
    with _prefix() as prefix:
        try:
            options = tf.train.CheckpointOptions(experimental_sharding_callback=callback, experimental_io_device=device)
            return _read_stub(checkpoint.write(prefix, options=options))
        except (tf.errors.FailedPreconditionError, tf.errors.UnimplementedError):
            check_iterators(checkpoint)
            raise


def encoded(tensors: Mapping[str, Any]) -> list[SnapshotTensor]:
    """Return tensors as TensorFlow writes them, by their keys."""
    if not tensors:
        return []
    with _prefix() as prefix:
        tf.raw_ops.SaveV2(
            prefix=prefix,
            tensor_names=list(tensors),
            shape_and_slices=[""] * len(tensors),
            tensors=list(tensors.values()),
        )
        return _read_stub(prefix)[0]


@contextmanager
def _prefix() -> Iterator[str]:
    """Yield where TensorFlow may write, in its memory.

    Nothing goes to a disk: with a full one, only this worker would miss the collectives of a snapshot.
    """
    folder = f"ram://holdfast-{secrets.token_hex(8)}"
    try:
        yield f"{folder}/{_STUB}"
    finally:
        with suppress(tf.errors.NotFoundError):
            tf.io.gfile.rmtree(folder)


def _read_stub(prefix: str) -> tuple[list[SnapshotTensor], list[tuple[bytes, BundleEntry]]]:
    others = [name for name in tf.io.gfile.listdir(prefix.rpartition("/")[0]) if not name.startswith(f"{_STUB}.")]
    if others:
        raise InvalidRequest(
            f"a registered saver writes a file of its own ({others[0].removeprefix(_STUB)}), which cannot be saved"
        )
    with tf.io.gfile.GFile(layout.index_object(prefix), "rb") as file:
        index = Index.parse(file.read())
    shards: list[bytes] = []
    for shard in range(index.num_shards):
        with tf.io.gfile.GFile(layout.data_object(prefix, shard, index.num_shards), "rb") as file:
            shards.append(file.read())
    found, headers = [], []
    for key, entry in index.tensors.items():
        if entry.slices:
            headers.append(header_record(key, entry.dtype, entry.shape, entry.slices))
        for extents, piece in index.pieces(key):
            data = shards[piece.shard][piece.offset : piece.offset + piece.size]
            found.append(
                SnapshotTensor(key, piece.dtype, piece.shape, data, encoded_crc32c=piece.crc32c, extents=extents)
            )
    return found, headers
