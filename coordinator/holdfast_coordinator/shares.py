"""A member's share of a save: the objects and index entries that it may report.

Who writes which bytes follows from the tensors, which the coordinator does not know. It knows the names that the layout
gives to each member, and what the chief has voted for. So a report may only name objects of its member's kind, and
entries in data that this very member has written; and all reports together must be what was voted for.

All raise InvalidRequest, which names the member.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from google.protobuf.message import DecodeError

from holdfast_protos.v1.bundle_pb2 import BundleEntry
from holdfast_protos.v1.coordinator_pb2 import IndexEntry, StoredObject
from holdfast_storage.bundle import dtypes
from holdfast_storage.bundle.crc import unmask
from holdfast_storage.bundle.slices import decode_name, encode_name
from holdfast_storage.cluster import Task
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.layout import (
    ARCHITECTURE,
    OBJECT_GRAPH_KEY,
    Piece,
    data_object,
    index_object,
    local_prefix,
    parse_piece,
)

_GRAPH = encode_name(OBJECT_GRAPH_KEY)
_SLICE = b"\0"  # with which the key of a slice begins
_SHARD = re.compile(r"\.data-([0-9]{1,9})-of-[0-9]+")


def check_objects(task: Task, base: str, num_shards: int, objects: Iterable[StoredObject]) -> None:
    """Check the names of what a member reports: shards of the checkpoint named `base`, its own bundle, and the models'
    architecture."""
    own = local_prefix("", task).lstrip("/")
    for each in objects:
        shard = _shard_of(each)
        if each.role == "data":
            ours = 0 <= shard < num_shards and each.name == data_object(base, shard, num_shards)
        elif each.role == "asset":
            ours = each.name == ARCHITECTURE
        else:
            ours = each.role == "local" and each.name in (data_object(own, 0, 1), index_object(own))
        if not ours:
            raise wrong(task, f"reports {each.name!r} as {each.role!r}, which is none of its own")


def check_entries(
    task: Task, objects: Iterable[StoredObject], entries: Iterable[IndexEntry]
) -> dict[bytes, int | None]:
    """Check that all entries of a report lie in data objects of the same report.

    Returns the CRC32C of each tensor, by its key in the index, but for the object graph. It is None for a tensor in
    slices, or encoded: these have other checksums than the tensor.
    """
    mine = {_shard_of(each) for each in objects if each.role == "data"}
    tensors: dict[bytes, int | None] = {}
    for each in entries:
        try:
            entry = BundleEntry.FromString(each.record)
        except DecodeError as error:
            raise wrong(task, f"reports {decode_name(each.key)!r} in a form that cannot be read") from error
        if not entry.slices and entry.shard_id not in mine:
            key = decode_name(each.key)
            raise wrong(task, f"reports {key!r} in shard {entry.shard_id}, which it has not written")
        if not each.key.startswith(_SLICE) and each.key != _GRAPH:
            plain = not entry.slices and dtypes.itemsize(entry.dtype) is not None
            tensors[each.key] = unmask(entry.crc32c) if plain else None
    return tensors


def whole_tensors(chief: Task, tensors: Mapping[bytes, int | None]) -> dict[bytes, int | None]:
    """Return the tensors of a delta's entries, with one in place of the pieces of each that is saved by rows.

    Its checksum is None: the entries are of what has changed alone. Each piece must have both its rows and its values.
    """
    found: dict[bytes, int | None] = {}
    pieces: Counter[Piece] = Counter()
    for key, crc in tensors.items():
        piece = parse_piece(decode_name(key))
        if piece is None:
            found[key] = crc
        else:
            pieces[piece] += 1
    for piece, parts in pieces.items():
        if parts != 2 or encode_name(piece.key) in tensors:
            raise wrong(chief, f"reports {piece.key!r} as a whole, or its rows without values")
    return found | {encode_name(piece.key): None for piece in pieces}


def check_vote(chief: Task, crcs: bytes, reported: Mapping[bytes, int | None]) -> None:
    """Check that the tensors of all reports are those for which the chief has voted.

    crcs: the CRC32C of each tensor, in key order.
    """
    voted = memoryview(crcs).cast("I")
    if len(reported) != len(voted):
        raise wrong(chief, f"has voted for {len(voted):,} tensors, and {len(reported):,} were reported")
    for (key, found), crc in zip(sorted(reported.items()), voted, strict=True):
        if found not in (None, crc):
            raise wrong(chief, f"has voted for another value of {decode_name(key)!r} than was reported")


def wrong(task: Task, what: str) -> InvalidRequest:
    """Return the error for a report that cannot be committed."""
    return InvalidRequest(f"{task} {what}; all workers must run the same version of Holdfast", workers=[str(task)])


def _shard_of(each: StoredObject) -> int:
    found = _SHARD.search(each.name)
    return int(found[1]) if found else -1
