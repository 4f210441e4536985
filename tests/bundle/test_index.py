"""The index: what is written is read, what does not fit together is refused, damage is found."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from holdfast_protos.v1.bundle_pb2 import BundleEntry, BundleHeader, TensorShape
from holdfast_storage.bundle.index import (
    Index,
    InvalidIndex,
    TensorEntry,
    full_record,
    header_record,
    slice_record,
    write_index,
)
from holdfast_storage.bundle.slices import Extents
from holdfast_storage.bundle.table import read_table, write_table
from holdfast_storage.errors import CheckpointDamaged, InvalidRequest

FLOAT = 1
STRING = 7
Record = tuple[bytes, BundleEntry]


def written(num_shards: int, records: Iterable[Record]) -> bytes:
    return write_index(num_shards, [(key, entry.SerializeToString()) for key, entry in records])


def whole(key: str = "w", shape: tuple[int, ...] = (4,), shard: int = 0, dtype: int = FLOAT) -> Record:
    return full_record(key, dtype, shape, shard=shard, offset=8, size=4 * math.prod(shape), crc32c=7)


def piece(extents: Extents, key: str = "w", shard: int = 0, dtype: int = FLOAT) -> Record:
    size = 4 * math.prod(length for _, length in extents)
    return slice_record(key, dtype, extents, shard=shard, offset=0, size=size, crc32c=9)


def sliced(shape: tuple[int, ...], *slices: Extents) -> list[Record]:
    return [header_record("w", FLOAT, shape, slices), *(piece(extents) for extents in slices)]


SMALL = [
    whole("a/scalar", ()),
    full_record("a/string", STRING, (2,), shard=1, offset=0, size=17, crc32c=3),
    *sliced((10, 4), ((0, 6), (0, 4)), ((6, 4), (0, 4))),
    whole("ünï", (0, 3)),
]


def test_an_index_says_where_everything_is() -> None:
    """An index says where whole tensors and slices are. Guards against a reader of the checkpoint that looks in the
    wrong place."""
    index = Index.parse(written(2, reversed(SMALL)))
    assert index.num_shards == 2
    assert list(index.tensors) == ["a/scalar", "a/string", "w", "ünï"]
    assert index.pieces("a/scalar") == [(None, TensorEntry("a/scalar", FLOAT, (), 0, 8, 4, 7))]
    assert index.tensors["w"].shape == (10, 4)
    assert index.pieces("w") == [
        (((0, 6), (0, 4)), TensorEntry("w", FLOAT, (6, 4), 0, 0, 96, 9)),
        (((6, 4), (0, 4)), TensorEntry("w", FLOAT, (4, 4), 0, 0, 64, 9)),
    ]
    with pytest.raises(KeyError):
        index.pieces("missing")


def test_a_scalar_has_a_shape() -> None:
    """The entry of a scalar has the field `shape`. Guards against an entry that TensorFlow does not write that way."""
    assert whole("s", ())[1].HasField("shape")


@st.composite
def tilings(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Extents]]:
    """A shape, and slices that tile it as a grid."""
    shape = tuple(draw(st.lists(st.integers(1, 300), min_size=1, max_size=3)))
    cuts = [sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=3))}) for size in shape]
    along = [[(a, b - a) for a, b in itertools.pairwise(cut)] for cut in cuts]
    return shape, draw(st.permutations(list(itertools.product(*along))))


@given(
    st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda key: key[0] != "\0"), tilings(), max_size=6),
    st.randoms(),
)
def test_round_trip(tensors: dict[str, tuple[tuple[int, ...], list[Extents]]], random: object) -> None:
    """Any tiling of any tensors, recorded in any order, is read and written again as it was. Guards against an index
    that depends on the order of reports."""
    records: list[Record] = []
    for key, (shape, slices) in tensors.items():
        if len(slices) == 1:
            records.append(whole(key, shape))
        else:
            records.append(header_record(key, FLOAT, shape, slices))
            records += [piece(extents, key) for extents in slices]
    random.shuffle(records)  # type: ignore[attr-defined]
    data = written(3, records)
    index = Index.parse(data)
    assert list(index.tensors) == sorted(tensors, key=str.encode)
    assert written(3, index.records()) == data
    for key, (shape, slices) in tensors.items():
        assert index.tensors[key].shape == shape
        if len(slices) > 1:
            assert [extents for extents, _ in index.pieces(key)] == slices


ROWS = [((0, 6), (0, 4)), ((6, 4), (0, 4))]


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([whole(), whole()], "twice"),
        ([*sliced((10, 4), *ROWS), piece(ROWS[0])], "twice"),
        ([whole(shard=2)], "shard 2 of 2"),
        ([whole(shard=-1)], "shard -1 of 2"),
        ([full_record("w", FLOAT, (3,), shard=0, offset=0, size=13, crc32c=0)], "13 bytes"),
        ([full_record("w", FLOAT, (3,), shard=0, offset=-4, size=12, crc32c=0)], "negative"),
        ([full_record("w", STRING, (3,), shard=0, offset=0, size=-1, crc32c=0)], "negative"),
        ([full_record("w", FLOAT, (-3,), shard=0, offset=0, size=-12, crc32c=0)], "shape"),
        ([(b"w", BundleEntry(dtype=FLOAT, shape=TensorShape(unknown_rank=True)))], "shape"),
        (sliced((10, 4), *ROWS)[:2], "lacks its slice"),
        (sliced((10, 4), *ROWS)[1:], "does not list"),
        ([*sliced((10, 4), ROWS[0], ((6, 3), (0, 4)))], "gaps"),
        ([*sliced((10, 4), ROWS[0], ((5, 5), (0, 4)))], "overlap"),
        ([header_record("w", FLOAT, (10, 4), [ROWS[0], ROWS[0]]), piece(ROWS[0])], "overlap"),
        ([*sliced((10, 4), ((0, 10), (0, 2)), ((0, 10), (1, 2)))], "overlap"),
        ([*sliced((10, 4), ROWS[0], ((6, 5), (0, 4)))], "of shape"),
        ([*sliced((10, 4), ROWS[0], ((6, 0), (0, 4)))], "of shape"),
        ([*sliced((10,), *ROWS)], "rank"),
        ([header_record("w", FLOAT, (), [()]), piece(())], "rank"),
        ([*sliced((10, 4), *ROWS)[:2], piece(ROWS[1], dtype=3)], "another dtype or shape"),
        ([*sliced((10, 4), *ROWS)[:2], (piece(ROWS[1])[0], piece(((0, 2), (0, 8)))[1])], "another dtype or shape"),
    ],
)
def test_what_does_not_fit_together_is_refused(records: list[Record], why: str) -> None:
    """Records that do not fit together are refused. Guards against workers that disagree, and an index that reads but
    lacks or mixes up what they wrote."""
    with pytest.raises(InvalidIndex, match=why) as caught:
        written(2, records)
    assert caught.value.object == "w"
    assert isinstance(caught.value, ValueError)


def test_a_record_that_is_no_entry_is_refused() -> None:
    """A record that is no entry is refused. Guards against trusting bytes from another process to parse."""
    with pytest.raises(DecodeError):
        BundleEntry.FromString(b"\xff")
    with pytest.raises(InvalidIndex, match="no entry"):
        write_index(1, [(b"w", b"\xff")])


def test_a_tensor_without_a_name_is_refused() -> None:
    """A tensor without a name is refused. Guards against a tensor under the empty key, which is the header's."""
    with pytest.raises(InvalidIndex, match="no name"):
        written(1, [whole("")])


@given(st.lists(st.tuples(*[st.tuples(st.integers(0, 5), st.integers(1, 3))] * 2), min_size=2, max_size=6, unique=True))
def test_overlaps_are_found_whatever_the_cut(slices: list[Extents]) -> None:
    """Overlaps are found as by comparing element by element. Guards against a sweep that drops a slice too early."""
    elements = [{(row, column) for row in range(a, a + n) for column in range(b, b + m)} for (a, n), (b, m) in slices]
    overlapping = sum(map(len, elements)) != len(set().union(*elements))
    with pytest.raises(InvalidIndex, match="overlap" if overlapping else "gaps"):
        written(1, sliced((100, 100), *slices))


def test_gaps_are_read_as_tensorflow_does() -> None:
    """An index with gaps is read, as in TensorFlow. Guards against refusing one task's part of a sharded variable."""
    header = BundleHeader(num_shards=1).SerializeToString()
    records = sliced((10, 4), ROWS[1])
    table = sorted((key, entry.SerializeToString()) for key, entry in records)
    index = Index.parse(write_table([(b"", header), *table]))
    assert [extents for extents, _ in index.pieces("w")] == [ROWS[1]]


def test_every_flipped_bit_is_found() -> None:
    """Every flipped bit of an index is found. Guards against a byte that may change unnoticed and decides which bytes
    become which weights."""
    data = written(2, SMALL)
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(CheckpointDamaged):
                Index.parse(bytes(damaged))


def test_every_truncation_is_found() -> None:
    """Every truncation of an index is found. Guards against a write that was cut short and leaves a prefix of
    the file."""
    data = written(2, SMALL)
    for size in range(len(data)):
        with pytest.raises(CheckpointDamaged):
            Index.parse(data[:size])


@given(st.data())
def test_any_records_under_good_checksums_are_read_or_refused(data: st.DataObject) -> None:
    """Any records under good checksums are read or refused. Guards against another kind of error for what a broken
    writer wrote."""
    pairs = read_table(written(2, SMALL))
    number = data.draw(st.integers(0, len(pairs) - 1))
    key, value = (bytearray(part) for part in pairs[number])
    target = data.draw(st.sampled_from([part for part in (key, value) if part]))
    target[data.draw(st.integers(0, len(target) - 1))] = data.draw(st.integers(0, 255))
    changed = {**dict(pairs[:number] + pairs[number + 1 :]), bytes(key): bytes(value)}
    with contextlib.suppress(CheckpointDamaged, InvalidRequest):
        Index.parse(write_table(sorted(changed.items())))


@pytest.mark.parametrize("pairs", [[], [(b"w", whole()[1].SerializeToString())], [(b"", b"\xff")]])
def test_an_index_without_a_header_is_damaged(pairs: list[tuple[bytes, bytes]]) -> None:
    """An index without a header is damaged. Guards against taking any sound table for an index."""
    with pytest.raises(CheckpointDamaged, match="header"):
        Index.parse(write_table(pairs))


@pytest.mark.parametrize(
    "header", [b"\x08\x01\x10\x01", b"\x08\x01\x1a\x02\x10\x02", b"\x08\x01\x1a\x02\x18\x01"], ids=["big", "min", "bad"]
)
def test_what_cannot_be_read_here_is_not_condemned(header: bytes) -> None:
    """A sound checkpoint of an unknown kind is not damaged. Guards against passing over a big-endian checkpoint or one
    of a later format, which loses training."""
    with pytest.raises(InvalidRequest):
        Index.parse(write_table([(b"", header)]))
