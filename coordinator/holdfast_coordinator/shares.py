"""A member's share of a save: the objects and index entries that it may report.

Who writes which bytes follows from the tensors, which the coordinator does not know. It knows each member's names, what
the chief has voted for, and that no two members write the same. So a report may only name objects of its member's kind,
and entries in data that this very member has written; and all reports together must be what was voted for.

All raise InvalidRequest, which names the member.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from google.protobuf.message import DecodeError

from holdfast_protos.v1.bundle_pb2 import BundleEntry
from holdfast_protos.v1.coordinator_pb2 import IndexEntry, ReportHead, StoredObject
from holdfast_storage.bundle import dtypes
from holdfast_storage.bundle.crc import unmask
from holdfast_storage.bundle.slices import decode_name
from holdfast_storage.cluster import Task
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.layout import OBJECT_GRAPH_KEY, data_object, index_object

_SHARD = re.compile(r"\.data-([0-9]+)-of-[0-9]+")


def wrong_object(head: ReportHead, each: StoredObject) -> str:
    """Return what is wrong with an object that a member reports; empty if it can be its own."""
    base = f"{head.checkpoint_name}-{head.step}"
    own = f"local/{head.caller.task}"
    shard = shard_of(each.name)
    if each.role == "data":
        ours = 0 <= shard < head.num_shards and each.name == data_object(base, shard, head.num_shards)
    else:
        ours = each.role == "local" and each.name in (data_object(own, 0, 1), index_object(own))
    return "" if ours and each.size >= 0 else f"{each.name!r} of {each.size} bytes as {each.role!r}"


def shard_of(name: str) -> int:
    """Return the number of the shard that a data object is; -1 if it is none."""
    found = _SHARD.search(name)
    return int(found[1][:9]) if found else -1


def check_entries(task: Task, objects: Iterable[StoredObject], entries: Iterable[IndexEntry]) -> None:
    """Check that all entries of a report lie in data objects of the same report."""
    mine = {shard_of(each.name) for each in objects if each.role == "data"}
    for each in entries:
        entry = _parsed(task, each)
        if not entry.slices and entry.shard_id not in mine:
            key = decode_name(each.key)
            raise _wrong(task, f"reports {key!r} in shard {entry.shard_id}, which it has not written")


def check_vote(chief: Task, crcs: Sequence[int], entries: Iterable[IndexEntry]) -> None:
    """Check that the entries of all reports are of the tensors for which the chief has voted.

    crcs: the CRC32C of each tensor, in key order. A tensor in slices, or encoded, has other ones in the index.
    """
    tensors = {each.key: each for each in entries if not each.key.startswith(b"\0")}
    tensors.pop(OBJECT_GRAPH_KEY.encode(), None)
    if len(tensors) != len(crcs):
        raise _wrong(chief, f"has voted for {len(crcs):,} tensors, and {len(tensors):,} were reported")
    for key, crc in zip(sorted(tensors), crcs, strict=True):
        entry = _parsed(chief, tensors[key])
        plain = not entry.slices and dtypes.itemsize(entry.dtype) is not None
        if plain and unmask(entry.crc32c) != crc:
            raise _wrong(chief, f"has voted for another value of {decode_name(key)!r} than was reported")


def _parsed(task: Task, each: IndexEntry) -> BundleEntry:
    try:
        return BundleEntry.FromString(each.record)
    except DecodeError as error:
        raise _wrong(task, f"reports {decode_name(each.key)!r} in a form that cannot be read") from error


def _wrong(task: Task, what: str) -> InvalidRequest:
    return InvalidRequest(f"{task} {what}; all workers must run the same version of Holdfast", workers=[str(task)])
