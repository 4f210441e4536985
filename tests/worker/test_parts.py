"""Parts of checkpoints: what is read is what was wanted, whatever the pieces, and somebody verifies every piece."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from itertools import count, pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.restoring.parts import Parts, Value
from holdfast.restoring.wants import StoredPiece, Want, needed, overlap, stored_pieces, unwanted
from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.dtypes import STRING
from holdfast_storage.bundle.encoded import entry_crc32c
from holdfast_storage.bundle.index import Index, full_record, header_record, slice_record, write_index
from holdfast_storage.errors import CheckpointAbsent, CheckpointDamaged, StorageError
from holdfast_storage.lag import Wait
from holdfast_storage.layout import data_object, index_object
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store import Store, open_store
from support.chains import Chain, touched
from support.faulty_store import FaultyStore

DTYPES = {np.uint8: 4, np.float16: 19, np.float32: 1, np.int64: 9, np.complex128: 18}
RECORD = CheckpointRecord("ckpt-1", 1, 0.0, stock=True)
Extents = tuple[tuple[int, int], ...]


def put(store: Store, tensors: dict[str, tuple[np.ndarray, Sequence[Extents]]], num_shards: int = 2) -> None:
    """Write a bundle of tensors, each in the given pieces: whole if there are none."""
    shards, records, turns = [bytearray() for _ in range(num_shards)], [], count()
    for key, (array, pieces) in tensors.items():
        dtype = STRING if array.dtype == object else DTYPES[array.dtype.type]
        if pieces:
            records.append(header_record(key, dtype, array.shape, pieces))
        for extents in pieces or [None]:
            part = array if extents is None else array[tuple(slice(a, a + n) for a, n in extents)]
            data = encoded(part) if dtype == STRING else part.tobytes()
            crc = entry_crc32c(STRING, part.shape, [data]) if dtype == STRING else mask(crc32c(data))
            shard = next(turns) % num_shards
            where = {"shard": shard, "offset": len(shards[shard]), "size": len(data), "crc32c": crc}
            shards[shard] += data
            if extents is None:
                records.append(full_record(key, dtype, array.shape, **where))
            else:
                records.append(slice_record(key, dtype, extents, **where))
    index = write_index(num_shards, ((key, record.SerializeToString()) for key, record in records))
    store.write(index_object(RECORD.prefix), [index])
    for shard, data in enumerate(shards):
        store.write(data_object(RECORD.prefix, shard, num_shards), [bytes(data)])


def encoded(strings: np.ndarray) -> bytes:
    """As TensorFlow stores strings of fewer than 128 bytes."""
    lengths = b"".join(len(each).to_bytes(4, "little") for each in strings.flat)
    checksum = mask(crc32c(lengths)).to_bytes(4, "little")
    return bytes(len(each) for each in strings.flat) + checksum + b"".join(strings.flat)


def array_of(value: Value, like: np.ndarray) -> np.ndarray:
    if like.dtype == object:
        return value.memory
    assert value.memory.ctypes.data % 64 == 0
    return value.memory.view(like.dtype).reshape(value.shape)


@pytest.fixture
def store() -> Store:
    return open_store(f"memory://tests/{secrets.token_hex(8)}/run")


@st.composite
def tensors(draw: st.DrawFn) -> tuple[np.ndarray, list[Extents]]:
    """A tensor of numbers that are all different, and a grid of pieces of it, in any order."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    array = np.arange(math.prod(shape)).astype(draw(st.sampled_from(list(DTYPES)))).reshape(shape)
    axes = []
    for size in shape:
        cuts = [0, *sorted(draw(st.sets(st.integers(1, size), max_size=2)) - {size}), size]
        axes.append([(begin, end - begin) for begin, end in pairwise(cuts)])
    return array, draw(st.permutations(list(product(*axes))))


@st.composite
def parts_of(draw: st.DrawFn, shape: Sequence[int]) -> Extents:
    part = []
    for size in shape:
        start = draw(st.integers(0, size - 1))
        part.append((start, draw(st.integers(1, size - start))))
    return tuple(part)


def any_parts(rank: int) -> st.SearchStrategy[Extents]:
    return st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=rank, max_size=rank).map(tuple)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_what_is_read_is_what_was_wanted(data: st.DataObject) -> None:
    """Any parts of tensors that are stored in any pieces are those of the whole, in memory that TensorFlow can take.

    Guards against rows that go to the wrong place, or to nowhere, when other servers restore than saved.
    """
    store = open_store(f"memory://tests/{secrets.token_hex(8)}/run")
    state = {f"v{i}": data.draw(tensors()) for i in range(data.draw(st.integers(1, 3)))}
    put(store, state)
    wants: dict[Want, np.ndarray] = {}
    for key, (array, _) in state.items():
        for part in data.draw(st.lists(parts_of(array.shape), max_size=3)):
            wants[Want(key, (array.shape, part))] = array[tuple(slice(a, a + n) for a, n in part)]
        if data.draw(st.booleans()):
            wants[Want(key)] = array
    read = Parts(store, RECORD).read(wants)
    assert read.keys() == wants.keys()
    for want, expected in wants.items():
        assert np.array_equal(array_of(read[want], expected), expected)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_piece_is_read_by_somebody(data: st.DataObject) -> None:
    """What each task reads for itself and its share of what nobody wants are together all pieces, the shares without
    overlap and alike on all tasks, whatever the tasks want: also what the checkpoint has in another shape, or lacks.

    Guards against bytes that nobody verifies before all apply.
    """
    store = open_store(f"memory://tests/{secrets.token_hex(8)}/run")
    state = {f"v{i}": data.draw(tensors()) for i in range(data.draw(st.integers(1, 3)))}
    put(store, state)
    index = Parts(store, RECORD).index
    tasks = data.draw(st.integers(1, 4))
    wanted: list[list[Want]] = [[] for _ in range(tasks)]
    for key, (array, _) in state.items():
        shape = data.draw(st.sampled_from([array.shape, (*array.shape, 2), tuple(n + 1 for n in array.shape)]))
        for mine in wanted:
            if data.draw(st.booleans()):
                mine.append(Want(key, (shape, data.draw(parts_of(shape)))))
    wanted[0].append(Want("missing"))
    everyone = [want for mine in wanted for want in mine]
    shares = unwanted(index, everyone, tasks)
    assert shares == unwanted(index, list(reversed(everyone)), tasks)
    own = {piece for want in everyone for piece in needed(index, want)}
    rest = [piece for share in shares for piece in share]
    assert len(rest) == len(set(rest))
    assert not own & set(rest)
    assert own | set(rest) == {piece for key in state for piece in stored_pieces(index, key)}


def test_the_rest_is_dealt_out_evenly(store: Store) -> None:
    """The shares of what nobody wants differ by no more than one piece. Guards against one server that reads all."""
    put(store, {f"v{i}": (np.zeros(100 + i, np.uint8), []) for i in range(30)})
    shares = unwanted(Parts(store, RECORD).index, [Want("v3")], 4)
    sizes = [sum(piece.entry.size for piece in share) for share in shares]
    assert max(sizes) - min(sizes) <= 130
    assert sum(map(len, shares)) == 29


@given(st.integers(1, 3).flatmap(lambda rank: st.tuples(*[any_parts(rank)] * 2)))
def test_overlap_is_a_common_element(both: tuple[Extents, Extents]) -> None:
    def elements(part: Extents) -> set[tuple[int, ...]]:
        return set(product(*(range(start, start + length) for start, length in part)))

    one, other = both
    assert overlap(one, other) == bool(elements(one) & elements(other))


def test_parts_of_strings(store: Store) -> None:
    """Strings are joined from pieces with any cuts, also where TensorFlow cannot. Guards against vocabularies that
    could be restored with the same partitioner alone."""
    words = np.array([[b"a", b""], [b"bcd", b"e" * 100], [b"\x00", b"f"]], object)
    scalar = np.array(b"alone", object)
    put(store, {"words": (words, [((0, 1), (0, 2)), ((1, 2), (0, 2))]), "scalar": (scalar, [])})
    middle = Want.of("words", "3 2 1,1:-")
    read = Parts(store, RECORD).read([Want("words"), middle, Want("scalar")])
    assert read[Want("words")].memory.tolist() == words.tolist()
    assert read[middle].memory.tolist() == words[1:2].tolist()
    assert read[Want("scalar")].memory[()] == b"alone"


def test_what_the_checkpoint_does_not_have_is_left_out(store: Store) -> None:
    """Wants of another shape, or of no tensor, are left to TensorFlow, which has an error for them. Guards against a
    part that is cut from a tensor of another shape."""
    put(store, {"v": (np.arange(6.0, dtype=np.float32).reshape(3, 2), [])})
    odd = ["3 3 0,1:-", "6 0,1", "3 2 2,2:-", "3 2 -1,1:-", "3 2 1 0,1:-:-"]
    wants = [Want("w"), *(Want.of("v", each) for each in odd)]
    assert Parts(store, RECORD).read(wants) == {}
    assert unwanted(Parts(store, RECORD).index, wants, 1) == [stored_pieces(Parts(store, RECORD).index, "v")]


def test_gaps_are_left_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor of TensorFlow's whose slices leave gaps is read where there are none, and otherwise left to TensorFlow.
    Guards against whatever was in memory before in the place of values."""
    rows = np.arange(12, dtype=np.int64).reshape(6, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Index, "check_whole", lambda self: None)
        put(store, {"v": (rows, [((0, 2), (0, 2)), ((3, 3), (0, 2))])})
    here, over = Want.of("v", "6 2 3,2:-"), Want.of("v", "6 2 1,2:-")
    read = Parts(store, RECORD).read([Want("v"), here, over])
    assert read.keys() == {here}
    assert np.array_equal(array_of(read[here], rows), rows[3:5])


@pytest.fixture
def rows(store: Store) -> tuple[Store, np.ndarray]:
    """A table in four pieces of two rows each, in two objects."""
    table = np.arange(24, dtype=np.int64).reshape(8, 3)
    put(store, {"table": (table, [((first, 2), (0, 3)) for first in (0, 2, 4, 6)])})
    return store, table


def test_a_task_reads_only_what_it_needs(rows: tuple[Store, np.ndarray]) -> None:
    """A task reads the pieces that hold something of what it wants, once each. Guards against servers that all read
    everything."""
    store, table = rows
    done: list[int] = []
    want = Want.of("table", "8 3 2,3:-")
    read = Parts(store, RECORD).read([want], progress=done.append)
    assert np.array_equal(array_of(read[want], table), table[2:5])
    assert sum(done) == 2 * 2 * 3 * 8


@pytest.mark.parametrize("wanted", ["8 3 0,2:-", "8 3 4,4:-"])
def test_damage_is_found_by_who_reads_the_piece(rows: tuple[Store, np.ndarray], wanted: str) -> None:
    """A flipped bit in a piece is CheckpointDamaged with the object's name, for who wants something of it and for who
    has it in its share of the rest, and for nobody else. Guards against rows that are restored wrong, and against
    damage in what nobody wants."""
    store, _ = rows
    parts, want = Parts(store, RECORD), Want.of("table", wanted)
    first = next(piece for piece in stored_pieces(parts.index, "table") if piece.extents[0] == (0, 2))
    name = data_object(RECORD.prefix, first.entry.shard, 2)
    data = bytearray(store.read(name))
    data[first.entry.offset + 5] ^= 1
    store.replace(name, bytes(data))
    [share] = unwanted(parts.index, [want], 1)
    if overlap(first.extents, ((int(wanted[4]), 1), (0, 3))):
        with pytest.raises(CheckpointDamaged, match=f"{name} has CRC32C"):
            parts.read([want])
        parts.read([], share)
    else:
        parts.read([want])
        with pytest.raises(CheckpointDamaged, match=f"{name} has CRC32C"):
            parts.read([], share)


def test_what_is_absent_or_unreadable_is_told_as_such(rows: tuple[Store, np.ndarray]) -> None:
    """A missing object, and one that is cut, are CheckpointAbsent, which may be a mount that is late; a storage that
    does not answer is a StorageError. Guards against a checkpoint that is condemned though nobody has seen a wrong
    byte."""
    store, _ = rows
    parts = Parts(store, RECORD)
    with pytest.raises(StorageError) as failed:
        Parts(FaultyStore(store, {("read_into", 0): "fail"}), RECORD).read([Want("table")])
    assert not isinstance(failed.value, CheckpointDamaged)
    name = data_object(RECORD.prefix, 0, 2)
    data = store.read(name)
    store.replace(name, data[:-1])
    with pytest.raises(CheckpointAbsent, match=name):
        parts.read([Want("table")])
    with pytest.raises(CheckpointAbsent, match=name):
        Parts(store, RECORD)


def test_what_is_late_is_waited_for(rows: tuple[Store, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that appears in time is read, and nothing else is read again. Guards against a restore that gives up
    because a mount is slow, and against one that reads everything twice."""
    store, table = rows
    parts = Parts(store, RECORD)
    name = data_object(RECORD.prefix, 0, 2)
    data = store.read(name)
    store.replace(name, data[:20])

    def appear(_: float) -> None:
        store.replace(name, data)

    monkeypatch.setattr("holdfast_storage.lag.time.sleep", appear)
    done: list[int] = []
    read = parts.read([Want("table")], progress=done.append, wait=Wait(60.0))
    assert np.array_equal(array_of(read[Want("table")], table), table)
    assert sum(done) == table.nbytes


def test_pieces_as_they_are_stored(rows: tuple[Store, np.ndarray]) -> None:
    """`read_stored` gives each piece's own bytes."""
    store, table = rows
    found = Parts(store, RECORD).read_stored("table")
    assert {piece.extents[0][0]: bytes(buffer) for piece, buffer in found.items()} == {
        first: table[first : first + 2].tobytes() for first in (0, 2, 4, 6)
    }
    assert all(isinstance(piece, StoredPiece) for piece in found)
    assert isinstance(Parts(store, RECORD).index, Index)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_parts_of_a_delta(data: st.DataObject) -> None:
    """Any parts of a table that a delta has by rows are those of the state that was saved, whatever pieces it is in.

    Guards against a server that gets rows as they were at the full checkpoint.
    """
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    cuts = sorted(data.draw(st.sets(st.integers(1, 19), max_size=4)))
    chain = Chain(open_store(f"memory://tests/{secrets.token_hex(8)}/run"), 2, {"table": cuts} if cuts else {})
    state = touched(random, {"table": np.zeros((20, 3), np.int64), "dense": np.zeros((4, 2), np.float32)}, 1.0)
    chain.full(state)
    for _ in range(data.draw(st.integers(1, 4))):
        before, state = state, touched(random, state, 0.3)
        chain.delta(before, state, ["table"])
    parts = Parts(chain.store, chain.records[-1])
    wants: dict[Want, np.ndarray] = {}
    for key, array in state.items():
        for part in data.draw(st.lists(parts_of(array.shape), max_size=3)):
            wants[Want(key, (array.shape, part))] = array[tuple(slice(a, a + n) for a, n in part)]
    [share] = unwanted(parts.index, wants, 1)
    read = parts.read(wants, share)
    for want, expected in wants.items():
        assert array_of(read[want], expected).tobytes() == np.ascontiguousarray(expected).tobytes()
    assert b"".join(map(bytes, parts.read_stored("table").values())) == state["table"].tobytes()


def test_damage_in_a_base_is_found_by_whoever_needs_the_piece() -> None:
    """A flipped bit in a piece of a base is found by the task that wants rows of that piece, and in the share of what
    nobody wants. Guards against a piece that is believed because the delta on it is sound."""
    chain = Chain(open_store(f"memory://tests/{secrets.token_hex(8)}/run"), 1, {"table": (10,)})
    state = {"table": np.arange(60).reshape(20, 3)}
    chain.full(state)
    chain.delta(state, state, ["table"])
    name = data_object(chain.records[0].prefix, 0, 1)
    content = bytearray(chain.store.read(name))
    content[5] ^= 1
    chain.store.replace(name, bytes(content))
    parts = Parts(chain.store, chain.records[-1])
    upper, lower = Want("table", ((20, 3), ((0, 10), (0, 3)))), Want("table", ((20, 3), ((10, 10), (0, 3))))
    assert np.array_equal(array_of(parts.read([lower])[lower], state["table"]), state["table"][10:])
    with pytest.raises(CheckpointDamaged, match=name):
        parts.read([upper])
    with pytest.raises(CheckpointDamaged, match=name):
        parts.read([], unwanted(parts.index, [lower], 1)[0])
