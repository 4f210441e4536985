"""Reading stored pieces of a checkpoint, each against its own digest in the index."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain as joined
from itertools import pairwise
from typing import Any

from holdfast_storage.bundle.crc import unmask
from holdfast_storage.bundle.encoded import entry_crc32c
from holdfast_storage.checkpoint.chain import Chain, Change, Part, Stored
from holdfast_storage.checkpoint.index import too_short
from holdfast_storage.errors import CheckpointAbsent, CheckpointDamaged, InvalidRequest
from holdfast_storage.lag import Wait
from holdfast_storage.parallel import in_parallel
from holdfast_storage.store.base import Store

Progress = Callable[[int], None]
"""Receives the size of each chunk that is read."""


def fill(store: Store, stored: Stored, memory: memoryview, progress: Progress) -> None:
    """Read a piece into memory of its size, and check it.

    Raises CheckpointAbsent if it is missing or cut, CheckpointDamaged if it is not what was written, StorageError if it
    cannot be read. The error names the object.
    """
    read_range(store, stored.object, stored.entry.offset, memory, progress)
    check(store, stored, memory)


def check_fit(store: Store, chain: Chain) -> None:
    """Check that the rows that the newest link has are rows of their parts. Raises what `fill` raises.

    That everything else fits has been checked when the chain was read.
    """

    def look(part: Part) -> None:
        change = part.changes[-1]
        memory = memoryview(bytearray(change.rows.entry.size))
        fill(store, change.rows, memory, lambda count: None)
        rows = joined((part.begin - 1,), memory.cast("q"), (part.end,))  # no list: there may be millions
        if any(row >= following for row, following in pairwise(rows)):
            raise _out_of_order(store, part, change)

    in_parallel(look, (part for table in chain.tables.values() for part in table.parts), store.parallel)


def read_range(store: Store, name: str, offset: int, memory: memoryview, progress: Progress) -> None:
    """Read so many bytes of an object, which are not checked. Raises what `fill` raises."""
    done = 0
    while done < len(memory):
        try:
            count = store.read_into(name, offset + done, memory[done : done + store.block])
        except FileNotFoundError as error:
            raise CheckpointAbsent(f"{store.url}/{name} is missing", object=name) from error
        if not count:
            told = f"{store.url}/{name} ends at byte {offset + done}, before its contents do"
            raise CheckpointAbsent(told, object=name)
        done += count
        progress(count)


def check(store: Store, stored: Stored, memory: memoryview) -> None:
    """Check the bytes of a piece. Raises CheckpointDamaged, which names the object."""
    entry = stored.entry
    try:
        found = entry_crc32c(entry.dtype, entry.shape, [memory])
    except CheckpointDamaged as error:
        told = f"{store.url}/{stored.object}: {entry.key}: {error}"
        raise CheckpointDamaged(told, object=stored.object) from error
    if found != entry.crc32c:
        told = f"has CRC32C {unmask(found):08x} in {entry.key}, and {unmask(entry.crc32c):08x} was written"
        raise CheckpointDamaged(f"{store.url}/{stored.object} {told}", object=stored.object)


def read_part(store: Store, part: Part, room: memoryview | None, progress: Progress, wait: Wait) -> memoryview:
    """Return the rows of a part, as they are now, in `room` if that is not None, and check all that they are made of.

    wait: how to wait for absent objects. Raises what `fill` raises; `room` has been written to then.
    """
    while True:
        try:
            memory = _room_for(store, part.whole) if room is None else room
            fill(store, part.whole, memory, progress)
            for change in part.changes:
                if change.rows.entry.size:
                    _apply(store, part, change, memory, progress)
            return memory
        except CheckpointAbsent as error:
            if not wait.again(str(error)):
                raise


def _room_for(store: Store, stored: Stored) -> memoryview:
    """Return memory for a piece. Raises CheckpointAbsent if that is not there, whatever the index claims."""
    if told := too_short(store, stored.object, stored.entry.offset + stored.entry.size):
        raise CheckpointAbsent(f"{store.url}/{stored.object} {told}", object=stored.object)
    return memoryview(bytearray(stored.entry.size))


def _apply(store: Store, part: Part, change: Change, memory: memoryview, progress: Progress) -> None:
    try:
        import numpy as np
    except ImportError as error:  # it comes with TensorFlow, and nobody else has needed it so far
        raise InvalidRequest("Rows of deltas are put together by numpy, which is not installed") from error
    numbers, data = _read_change(store, change, progress)
    rows: Any = np.frombuffer(numbers, "<i8")
    if rows[0] < part.begin or rows[-1] >= part.end or (rows[1:] <= rows[:-1]).any():
        raise _out_of_order(store, part, change)
    row = np.dtype((np.void, len(memory) // (part.end - part.begin)))
    np.frombuffer(memory, row)[rows - part.begin] = np.frombuffer(data, row)


def _read_change(store: Store, change: Change, progress: Progress) -> tuple[memoryview, memoryview]:
    rows, values = change.rows, change.values
    end = rows.entry.offset + rows.entry.size
    memory = memoryview(bytearray(rows.entry.size + values.entry.size))
    numbers, data = memory[: rows.entry.size], memory[rows.entry.size :]
    if (rows.object, end) == (values.object, values.entry.offset):
        read_range(store, rows.object, rows.entry.offset, memory, progress)  # one request: there are many
    else:
        read_range(store, rows.object, rows.entry.offset, numbers, progress)
        read_range(store, values.object, values.entry.offset, data, progress)
    check(store, rows, numbers)
    check(store, values, data)
    return numbers, data


def _out_of_order(store: Store, part: Part, change: Change) -> CheckpointDamaged:
    name, told = change.rows.object, f"does not ascend from {part.begin} to {part.end - 1}"
    return CheckpointDamaged(f"{store.url}/{name}: {change.rows.entry.key} {told}", object=name)
