"""Chains of deltas: what they are made of, what they come to, and what is refused."""

from __future__ import annotations

import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_protos.v1.bundle_pb2 import BundleEntry
from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.index import full_record
from holdfast_storage.checkpoint.chain import read_chain
from holdfast_storage.checkpoint.manifest import ObjectRecord
from holdfast_storage.checkpoint.pieces import check_fit
from holdfast_storage.checkpoint.verify import verify_checkpoint
from holdfast_storage.errors import CheckpointAbsent, CheckpointDamaged
from holdfast_storage.layout import Piece
from holdfast_storage.store import open_store
from support.chains import Chain, bits, merged, touched
from support.stores import new_store

DTYPES = ("float32", "float16", "int64", "uint8", "bool")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_chain_comes_to_its_state(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever tables, pieces, workers and touches there are, each link comes to its state, bit by bit. Guards against
    a restored table with rows of an older save, of another piece, or of nobody."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    state: dict[str, Any] = {"step": np.array(7, np.int64)}
    cuts = {}
    for number in range(data.draw(st.integers(1, 3))):
        rows, inner = data.draw(st.integers(0, 40)), data.draw(st.sampled_from([(), (1,), (3,), (2, 5)]))
        dtype = data.draw(st.sampled_from(DTYPES))
        state[f"table-{number}"] = np.zeros((rows, *inner), dtype)
        if rows > 1 and dtype != "float16":
            cuts[f"table-{number}"] = sorted(data.draw(st.sets(st.integers(1, rows - 1), max_size=4)))
    cuts = {key: ends for key, ends in cuts.items() if ends}
    store = open_store(tmp_path_factory.mktemp("run"))
    chain = Chain(store, data.draw(st.integers(1, 3)), cuts)
    state = touched(random, state, 1.0)
    chain.full(state)
    states = [state]
    for _ in range(data.draw(st.integers(0, 20))):
        state = touched(random, state, data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])))
        by_rows = data.draw(st.sets(st.sampled_from([key for key in state if key != "step"])))
        chain.delta(states[-1], state, by_rows)
        states.append(state)
    for record, expected in zip(chain.records, states, strict=True):
        assert merged(store, record) == bits(expected)


@pytest.fixture
def three(tmp_path: Path) -> tuple[Chain, list[dict[str, Any]]]:
    """A full checkpoint and two deltas of two workers, with a table in three pieces, of which every part is used."""
    chain = Chain(new_store("posix", tmp_path), 2, {"table": (4, 7)})
    random = np.random.default_rng(1)
    first = touched(random, {"step": np.array(0), "table": np.zeros((10, 6), np.float32)}, 1.0)
    states = [first]
    chain.full(first)
    for _ in range(2):
        states.append(touched(random, states[-1], 0.5))
        chain.delta(states[-2], states[-1], ["table"])
    return chain, states


def objects(chain: Chain) -> list[str]:
    """The names of all objects of the links, in order."""
    root = Path(chain.store.url)
    return [
        str(path.relative_to(root))
        for record in chain.records
        for path in sorted((root / record.folder).rglob("*"))
        if path.is_file()
    ]


def test_one_flip_in_any_link_is_found_and_named(three: tuple[Chain, list[dict[str, Any]]]) -> None:
    """A flipped bit anywhere in what is needed of any link is found, and the object named. Guards against a delta that
    is verified while its base is not, and against an error that blames the wrong link."""
    chain, states = three
    root, newest = Path(chain.store.url), chain.records[-1]
    whole = read_chain(chain.store, newest)
    dead = {stored.object for link in whole.links[:-1] for key in link.index.tensors if key == "step"
            for stored in [link.stored(link.index.tensors[key])]}  # fmt: skip
    for name in objects(chain):
        sound = (root / name).read_bytes()
        found = 0
        positions = range(0, len(sound), 5 if "manifest" in name else 1)
        for position in positions:
            (root / name).write_bytes(sound[:position] + bytes([sound[position] ^ 4]) + sound[position + 1 :])
            try:
                assert merged(chain.store, newest) == bits(states[-1])
            except CheckpointDamaged as error:
                assert name in str(error)  # noqa: PT017
                found += 1
        (root / name).write_bytes(sound)
        # What the newest link has whole is read from there alone.
        assert len(positions) - found == (8 if name in dead else 0), name
    assert merged(chain.store, newest) == bits(states[-1])


@pytest.mark.parametrize("how", ["missing", "cut"])
def test_a_link_that_is_missing_or_cut_is_named(three: tuple[Chain, list[dict[str, Any]]], how: str) -> None:
    """What is missing or cut is absent, not damaged, and named. Guards against a chain that is condemned since a mount
    shows a link late."""
    chain, _ = three
    for name in objects(chain):
        path = Path(chain.store.url) / name
        sound = path.read_bytes()
        path.unlink()
        if how == "cut":
            path.write_bytes(sound[:-1] if "manifest" not in name else sound[:-4])
        with pytest.raises(CheckpointAbsent) as raised:
            merged(chain.store, chain.records[-1])
        assert name in str(raised.value)
        path.write_bytes(sound)


def test_a_base_that_was_saved_anew_is_no_base(three: tuple[Chain, list[dict[str, Any]]]) -> None:
    """Another checkpoint under the base's name is refused, though it is sound in itself. Guards against rows of one
    table put into another one."""
    chain, states = three
    other = Chain(open_store(Path(chain.store.url).parent / "other"), 2, chain.cuts)
    other.full({key: np.zeros_like(value) for key, value in states[0].items()})
    for name in objects(other):
        (Path(chain.store.url) / name).write_bytes((Path(other.store.url) / name).read_bytes())
    with pytest.raises(CheckpointDamaged, match=r"ckpt-1\.0badcafe\.1/manifest.*is a delta on it"):
        read_chain(chain.store, chain.records[-1])


T = Piece("table", 0)


def _text() -> bytes:
    """One empty string as TensorFlow stores it."""
    return b"\0" + struct.pack("<I", mask(crc32c(struct.pack("<I", 0))))


def _rows(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "descending": ({T.rows: _rows(2, 1), T.values: np.zeros((2, 2), np.float32)}, "does not ascend"),
    "twice": ({T.rows: _rows(1, 1), T.values: np.zeros((2, 2), np.float32)}, "does not ascend"),
    "negative": ({T.rows: _rows(-1, 1), T.values: np.zeros((2, 2), np.float32)}, "does not ascend"),
    "beyond": ({T.rows: _rows(1, 4), T.values: np.zeros((2, 2), np.float32)}, "does not ascend"),
    "far beyond": ({T.rows: _rows(1, 2**63 - 1), T.values: np.zeros((2, 2), np.float32)}, "does not ascend"),
    "too many": ({T.rows: _rows(*range(5)), T.values: np.zeros((5, 2), np.float32)}, "numbers of some of 4 rows"),
    "no values": ({T.rows: _rows(1)}, "VALUES/0 is missing"),
    "no rows": ({T.values: np.zeros((2, 2), np.float32)}, "ROWS/0 is missing"),
    "fewer values": ({T.rows: _rows(1, 2), T.values: np.zeros((1, 2), np.float32)}, "cannot be 2 rows"),
    "another dtype": ({T.rows: _rows(1), T.values: np.zeros((1, 2), np.int32)}, "cannot be 1 rows of float32"),
    "another shape": ({T.rows: _rows(1), T.values: np.zeros((1, 3), np.float32)}, "cannot be 1 rows of float32"),
    "numbers of another dtype": ({T.rows: _rows(1).astype(np.int32), T.values: np.zeros((1, 2), np.float32)}, "int32"),
    "numbers of another shape": ({T.rows: _rows(1)[None], T.values: np.zeros((1, 2), np.float32)}, "numbers of some"),
    "another piece": (
        {Piece("table", 1).rows: _rows(1), Piece("table", 1).values: np.zeros((1, 2), np.float32)},
        "in other pieces",
    ),
    "one piece more": (
        {T.rows: _rows(), T.values: np.zeros((0, 2), np.float32)}
        | {Piece("table", 2).rows: _rows(), Piece("table", 2).values: np.zeros((0, 2), np.float32)},
        "in other pieces",
    ),
    "whole as well": (
        {T.rows: _rows(), T.values: np.zeros((0, 2), np.float32), "table": np.zeros((4, 2), np.float32)},
        "whole as well as by rows",
    ),
    "a tensor that the base lacks": (
        {Piece("other", 0).rows: _rows(), Piece("other", 0).values: np.zeros((0, 2), np.float32)},
        "has no other",
    ),
    "a scalar": (
        {Piece("step", 0).rows: _rows(), Piece("step", 0).values: np.zeros((0,), np.float32)},
        "step has no rows",
    ),
    "rows of nothing": (
        {Piece("none", 0).rows: _rows(0), Piece("none", 0).values: np.zeros((1, 0), np.float32)},
        "none has no rows",
    ),
    "strings": ({Piece("text", 0).rows: _rows(), Piece("text", 0).values: np.zeros((0,), np.float32)}, "no rows"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_does_not_fit_is_refused(tmp_path: Path, name: str) -> None:
    """A delta that does not fit its base is damage, told by name, however good its checksums, and verification says so
    as well. Guards against rows that are written outside of a table, against a tensor that is half another one's, and
    against a run that a worker cannot restore and a coordinator finds good."""
    tensors, told = HOSTILE[name]
    chain = Chain(open_store(tmp_path))
    chain.full(
        {
            "table": np.zeros((4, 2), np.float32),
            "step": np.array(1.0, np.float32),
            "none": np.zeros((3, 0), np.float32),
            "text": _text(),
        }
    )
    record = chain.delta({}, tensors, [])
    with pytest.raises(CheckpointDamaged, match=told) as raised:
        merged(chain.store, record)
    assert raised.value.object
    report = verify_checkpoint(chain.store, record)
    assert (report.verdict, told in report.problems[0].reason) == ("damaged", True)
    assert verify_checkpoint(chain.store, chain.records[0]).verdict == "good"


def test_absurd_sizes_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of eight terabytes, of which manifest and index say that it is there, is told to be cut. Guards against a
    process that is killed for memory because a file claims much."""
    put = Chain._put

    def lying(chain: Chain, name: str, data: bytes, role: str, task: Any) -> ObjectRecord:
        record = put(chain, name, data, role, task)
        return replace(record, size=1 << 50) if role == "data" else record

    monkeypatch.setattr(Chain, "_put", lying)
    chain = Chain(open_store(tmp_path))
    monkeypatch.setattr(chain, "_whole", lambda key, value: [(_absurd, b"")])
    chain.full({"table": None})
    monkeypatch.undo()
    record = chain.delta({}, {T.rows: _rows(1), T.values: np.zeros((1, 2), np.float32)}, [])
    with pytest.raises(CheckpointAbsent, match=r"ckpt-1\.data-00000-of-00001 ends at byte 0"):
        merged(chain.store, record)


def _absurd(shard: int, offset: int, crc: int) -> tuple[bytes, BundleEntry]:
    return full_record("table", 1, (1 << 40, 2), shard=shard, offset=offset, size=1 << 43, crc32c=mask(crc))


def test_a_look_at_millions_of_rows_takes_the_memory_of_their_numbers(tmp_path: Path) -> None:
    """Whether rows ascend is seen with no more memory than their stored numbers. Guards against a worker that reads
    back a delta of which all rows have changed, beside a training that needs its memory."""
    chain = Chain(new_store("posix", tmp_path))
    before = {"table": np.zeros((300_000, 1), np.float32)}
    chain.full(before)
    after = {"table": before["table"] + 1}
    found = read_chain(chain.store, chain.delta(before, after, ["table"]))
    tracemalloc.start()
    try:
        check_fit(chain.store, found)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 1.5 * 8 * 300_000


def test_a_tensor_that_one_link_lacks(tmp_path: Path) -> None:
    """A tensor that went and came back by rows is damage. Guards against rows put into what an older link had."""
    chain = Chain(open_store(tmp_path))
    table = {"table": np.zeros((4, 2), np.float32)}
    chain.full(table)
    chain.delta(table, {}, [])
    record = chain.delta(table, {"table": np.ones((4, 2), np.float32)}, ["table"])
    with pytest.raises(CheckpointDamaged, match=r"ckpt-2\.delta\.index: has no table, of which ckpt-3"):
        read_chain(chain.store, record)


def test_keys_that_come_and_go(tmp_path: Path) -> None:
    """The newest link says which tensors there are. Guards against a tensor that comes back from an older link."""
    chain = Chain(open_store(tmp_path))
    states: list[dict[str, Any]] = [{"a": np.zeros((3, 2), np.float32)}, {"b": np.ones((2, 2), np.float32)}]
    chain.full(states[0])
    chain.delta(states[0], states[1], [])
    states.append({"b": np.array([[1, 1], [2, 2]], np.float32)})
    record = chain.delta(states[1], states[2], ["b"])
    assert merged(chain.store, record) == bits(states[2])
