"""Chains of deltas, made by no code of the product's but that of the format, and what they come to when read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from holdfast_protos.v1.bundle_pb2 import BundleEntry
from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.encoded import entry_crc32c
from holdfast_storage.bundle.index import full_record, header_record, slice_record, write_index
from holdfast_storage.checkpoint.chain import Stored, read_chain
from holdfast_storage.checkpoint.manifest import Base, Manifest, ObjectRecord
from holdfast_storage.checkpoint.pieces import fill, read_part
from holdfast_storage.cluster import Task
from holdfast_storage.lag import Wait
from holdfast_storage.layout import (
    Piece,
    data_object,
    delta_prefix,
    index_object,
    local_prefix,
    manifest_object,
    prefix,
)
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store import Store

GENERATION = "0badcafe"
NUMBERS = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "float16": 19, "int64": 9, "bool": 10}

State = Mapping[str, Any]
"""Arrays by key. bytes: a tensor in TensorFlow's encoding, with dtype string and no dimension."""

_Record = Callable[[int, int, int], tuple[bytes, BundleEntry]]  # makes an entry of shard, offset and CRC
_Item = tuple[_Record, bytes]


@dataclass
class Chain:
    """A run with a chain in the making.

    cuts: the rows at which tensors are cut, by key; those that are not there are stored whole.
    """

    store: Store
    workers: int = 1
    cuts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    records: list[CheckpointRecord] = field(default_factory=list)

    def full(self, state: State) -> CheckpointRecord:
        """Commit a full checkpoint."""
        items = [item for key, value in state.items() for item in self._whole(key, value)]
        return self._commit(items, [record for key in state for record in self._header(key, state[key])], None, {})

    def delta(
        self, before: State, after: State, by_rows: Iterable[str], own: Mapping[Task, State] | None = None
    ) -> CheckpointRecord:
        """Commit what has changed since the last commit, which has the state `before`.

        own: what is in the workers' own bundles.
        """
        items, headers = [], []
        by_rows = set(by_rows)
        for key, value in after.items():
            if key not in by_rows:
                items += self._whole(key, value)
                headers += self._header(key, value)
                continue
            for begin, end in self._ranges(key, value):
                differs = _bits(before[key][begin:end]) != _bits(value[begin:end])
                rows = begin + np.flatnonzero(differs.any(axis=1))
                piece = Piece(key, begin)
                items += [_item(piece.rows, rows.astype("<i8")), _item(piece.values, value[rows])]
        return self._commit(items, headers, self.records[-1], own or {})

    def _ranges(self, key: str, value: Any) -> list[tuple[int, int]]:
        ends = [*self.cuts.get(key, ()), len(value)]
        return list(zip([0, *ends], ends, strict=False))

    def _whole(self, key: str, value: Any) -> list[_Item]:
        if key not in self.cuts:
            return [_item(key, value)]
        return [_slice(key, value, begin, end) for begin, end in self._ranges(key, value)]

    def _header(self, key: str, value: Any) -> list[tuple[bytes, BundleEntry]]:
        if key not in self.cuts:
            return []
        slices = [_extents(value, begin, end) for begin, end in self._ranges(key, value)]
        return [header_record(key, NUMBERS[value.dtype.name], value.shape, slices)]

    def _commit(
        self,
        items: Sequence[_Item],
        records: list[tuple[bytes, BundleEntry]],
        base: CheckpointRecord | None,
        own: Mapping[Task, State],
    ) -> CheckpointRecord:
        ordinal = len(self.records) + 1
        where = prefix("ckpt", ordinal, GENERATION, ordinal)
        folder, bundle = where.rpartition("/")[0], delta_prefix(where) if base else where
        world = tuple(Task("worker", number) for number in range(self.workers))
        objects = self._bundle(bundle, [items[shard :: self.workers] for shard in range(self.workers)], records, world)
        for task, state in own.items():
            local = [_item(key, value) for key, value in state.items()]
            objects += self._bundle(local_prefix(folder, task), [local], [], [task], "local")
        on = Base(base.prefix, base.manifest_crc32c) if base else None
        content = Manifest(where, ordinal, 1.0, GENERATION, world, tuple(objects), base=on).to_bytes()
        self.store.write(manifest_object(folder), [content])
        made = CheckpointRecord(where, ordinal, 1.0, manifest_crc32c=crc32c(content), base=base.prefix if base else "")
        self.records.append(made)
        return made

    def _bundle(
        self,
        bundle: str,
        items: Sequence[Sequence[_Item]],
        records: list[tuple[bytes, BundleEntry]],
        world: Sequence[Task],
        role: str = "data",
    ) -> list[ObjectRecord]:
        """Write a bundle whose shards have these items. records: entries of its index besides theirs."""
        objects = []
        for shard, task in enumerate(world):
            data = b""
            for record, content in items[shard]:
                records.append(record(shard, len(data), crc32c(content)))
                data += content
            objects.append(self._put(data_object(bundle, shard, len(world)), data, role, task))
        index = write_index(len(world), [(key, entry.SerializeToString()) for key, entry in records])
        local = role == "local"
        return [
            *objects,
            self._put(index_object(bundle), index, role if local else "index", world[0] if local else None),
        ]

    def _put(self, name: str, data: bytes, role: str, task: Task | None) -> ObjectRecord:
        self.store.write(name, [data])
        return ObjectRecord(name.partition("/")[2], len(data), crc32c(data), role, task)


def merged(store: Store, record: CheckpointRecord) -> dict[str, bytes]:
    """The bytes of every tensor of a checkpoint, as its chain says."""
    chain = read_chain(store, record)
    values = {}
    for key in chain.newest.index.tensors:
        pieces = sorted(chain.newest.index.pieces(key), key=lambda piece: piece[0] or ())
        values[key] = b"".join(whole(store, chain.newest.stored(entry)) for _, entry in pieces)
    for key, table in chain.tables.items():
        values[key] = b"".join(read_part(store, part, None, ignored, Wait(0.0)) for part in table.parts)
    return values


def whole(store: Store, stored: Stored) -> bytes:
    """The bytes of a piece."""
    memory = memoryview(bytearray(stored.entry.size))
    fill(store, stored, memory, ignored)
    return bytes(memory)


def ignored(count: int) -> None:
    """Progress that nobody looks at."""


def bits(state: dict[str, Any]) -> dict[str, bytes]:
    return {key: value if isinstance(value, bytes) else value.tobytes() for key, value in state.items()}


def touched(random: np.random.Generator, state: dict[str, Any], share: float) -> dict[str, Any]:
    """The state after some rows of each table, and everything else, have got other bytes."""
    after = {}
    for key, value in state.items():
        after[key] = np.array(value)
        count = len(value) if value.ndim else 1
        rows = after[key].reshape(count, value.size // max(count, 1)).view(np.uint8)
        chosen = random.random(count) < (share if value.ndim else 1.0)
        rows[chosen] = random.integers(0, 2 if value.dtype == bool else 256, (int(chosen.sum()), rows.shape[1]))
    return after


def _item(key: str, value: Any) -> _Item:
    encoded = isinstance(value, bytes)
    dtype, shape = (7, ()) if encoded else (NUMBERS[value.dtype.name], value.shape)
    data = value if encoded else value.tobytes()

    def record(shard: int, offset: int, crc: int) -> tuple[bytes, BundleEntry]:
        masked = entry_crc32c(7, (), [data]) if encoded else mask(crc)
        return full_record(key, dtype, shape, shard=shard, offset=offset, size=len(data), crc32c=masked)

    return record, data


def _slice(key: str, value: Any, begin: int, end: int) -> _Item:
    dtype, extents, data = NUMBERS[value.dtype.name], _extents(value, begin, end), value[begin:end].tobytes()

    def record(shard: int, offset: int, crc: int) -> tuple[bytes, BundleEntry]:
        return slice_record(key, dtype, extents, shard=shard, offset=offset, size=len(data), crc32c=mask(crc))

    return record, data


def _extents(value: Any, begin: int, end: int) -> tuple[tuple[int, int], ...]:
    return ((begin, end - begin), *((0, size) for size in value.shape[1:]))


def _bits(rows: Any) -> Any:
    return np.ascontiguousarray(rows).reshape(len(rows), rows.size // max(len(rows), 1)).view(np.uint8)
