"""Whole checkpoints made of deltas: complete, verified, all or nothing, and nothing else is touched."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_storage.checkpoint import materialize
from holdfast_storage.checkpoint.materialize import Materializing
from holdfast_storage.errors import CheckpointDamaged, HoldfastError, InvalidRequest, StorageError
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.stock.state_file import stock_checkpoints
from holdfast_storage.store import Store, open_store
from servers.fixtures import ObjectStore
from support.chains import Chain, bits, merged, touched
from support.faulty_store import FaultyStore
from support.stores import ALL_KINDS, any_store, new_store


def make(store: Store, record: CheckpointRecord, out: Store | Path) -> str:
    return Materializing(store, record).write(str(getattr(out, "url", out)), lambda _: None)


def found(out: Store) -> dict[str, bytes]:
    """What is in the one checkpoint of a folder, as TensorFlow's file says."""
    (record,) = stock_checkpoints(out)
    return merged(out, record)


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Chain, list[dict[str, Any]]]:
    """A full checkpoint and two deltas of two workers, and their states."""
    random = np.random.default_rng(1)
    chain = Chain(new_store("posix", tmp_path), 2, {"table": (4, 7), "dense": (1,)})
    start = {"step": np.array(0), "table": np.zeros((10, 6), np.float32), "dense": np.zeros((3, 2), np.int64)}
    states = [touched(random, start, 1.0)]
    chain.full(states[0])
    for _ in range(2):
        states.append(touched(random, states[-1], 0.5))
        chain.delta(states[-2], states[-1], ["table"])
    return chain, states


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_link_is_made_whole(
    chain: tuple[Chain, list[dict[str, Any]]],
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    object_store: ObjectStore,
) -> None:
    """Full ones and deltas become checkpoints of TensorFlow's, bit by bit the states that were saved, in any number of
    objects. Guards against a copy with a piece of another state."""
    monkeypatch.setattr(materialize, "_OBJECT", 100)
    for number, (record, state) in enumerate(zip(chain[0].records, chain[1], strict=True)):
        (tmp_path / str(number)).mkdir()
        out = any_store(kind, tmp_path / str(number), object_store)
        monkeypatch.setattr(materialize, "open_store", {out.url: out}.get)
        done: list[int] = []
        making = Materializing(chain[0].store, record)
        assert making.write(out.url, done.append) == f"{out.url}/ckpt-{number + 1}"
        assert found(out) == bits(state)
        assert sum(done) == making.size
        assert [each.step for each in stock_checkpoints(out)] == [number + 1]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32), deltas=st.integers(0, 20), workers=st.integers(1, 3), cuts=st.sets(st.integers(1, 29))
)
def test_any_chain(
    seed: int, deltas: int, workers: int, cuts: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A chain of any length, in any pieces, becomes the state of its newest link. Guards against rows of a link that is
    left out, or that are put into another piece."""
    random, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("any")
    chain = Chain(open_store(folder / "run"), workers, {"a": sorted(cuts)} if cuts else {})
    state = touched(random, {"a": np.zeros((30, 3), np.float32), "b": np.zeros((9, 2), np.int32)}, 1.0)
    chain.full(state)
    for _ in range(deltas):
        before, state = state, touched(random, state, 0.2)
        chain.delta(before, state, ["a", "b"])
    make(chain.store, chain.records[-1], folder / "out")
    assert found(open_store(folder / "out")) == bits(state)


def test_a_flip_in_any_link_leaves_no_checkpoint(chain: tuple[Chain, list[dict[str, Any]]], tmp_path: Path) -> None:
    """What is damaged is never made whole: the object is named, and there is no index. When it is sound again, the same
    call goes through. Guards against a copy whose own checksums vouch for damage."""
    run, states = chain
    out = tmp_path / "out"
    for record in run.records:
        for path in sorted((Path(run.store.url) / record.folder).rglob("*data*")):
            sound = path.read_bytes()
            for position in range(0, len(sound), 3):
                path.write_bytes(sound[:position] + bytes([sound[position] ^ 1]) + sound[position + 1 :])
                try:
                    make(run.store, run.records[-1], out)
                except CheckpointDamaged as error:
                    assert path.name in str(error)  # noqa: PT017
                    assert not list(out.glob("*.index"))
                    break
            path.write_bytes(sound)
    make(run.store, run.records[-1], out)
    assert found(open_store(out)) == bits(states[-1])


def test_every_call_fails_once(
    chain: tuple[Chain, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever call of the storage fails, with or without effect, there is no checkpoint or a whole one, and the same
    call again makes it whole. Guards against an index over objects that are not there, and a rest that stays in the
    way for ever."""
    run, states = chain
    monkeypatch.setattr(materialize, "_OBJECT", 100)
    monkeypatch.setattr(materialize, "_WRITERS", 1)
    real = materialize.open_store
    failed = 0
    for verb in ("list", "read", "create", "write", "replace", "size"):
        for count in range(9):
            for fault in ("fail", "lose"):
                out = tmp_path / f"{verb}-{count}-{fault}"

                def faulty(url: str, verb: str = verb, count: int = count, fault: Any = fault) -> Store:
                    return FaultyStore(real(url), {(verb, count): fault})

                monkeypatch.setattr(materialize, "open_store", faulty)
                try:
                    make(run.store, run.records[-1], out)
                except HoldfastError as error:
                    assert isinstance(error, StorageError | InvalidRequest)  # noqa: PT017
                    failed += 1
                monkeypatch.setattr(materialize, "open_store", real)
                for index in out.glob("*.index"):
                    assert merged(open_store(out), CheckpointRecord(index.stem, 3, 0.0, stock=True)) == bits(states[-1])
                make(run.store, run.records[-1], out)
                assert found(open_store(out)) == bits(states[-1])
    assert failed > 15


def test_what_is_complete_is_left_as_it_is(chain: tuple[Chain, list[dict[str, Any]]], tmp_path: Path) -> None:
    """A second call writes nothing. Guards against a reader whose checkpoint is replaced under it."""
    run, _ = chain
    first = make(run.store, run.records[-1], tmp_path / "out")
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir() if path.name != "checkpoint"}
    assert make(run.store, run.records[-1], tmp_path / "out") == first
    for path in (tmp_path / "out").iterdir():
        assert path.name == "checkpoint" or times[path.name] == path.stat().st_mtime_ns


def test_without_numpy(
    chain: tuple[Chain, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where numpy is not installed, a delta is refused by a sentence, and a full one is made all the same. Guards
    against a traceback on a host that has only the coordinator."""
    run, states = chain
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(InvalidRequest, match="numpy, which is not installed"):
        make(run.store, run.records[-1], tmp_path / "delta")
    make(run.store, run.records[0], tmp_path / "full")
    assert found(open_store(tmp_path / "full")) == bits(states[0])


def test_what_a_kill_leaves(chain: tuple[Chain, list[dict[str, Any]]], tmp_path: Path) -> None:
    """A half object of an earlier try is replaced. Guards against one that is taken for whole, or blocks every later
    try."""
    run, states = chain
    make(run.store, run.records[-1], tmp_path / "out")
    (tmp_path / "out/ckpt-3.index").unlink()
    (torn,) = (tmp_path / "out").glob("*.data*")
    torn.write_bytes(torn.read_bytes()[:-1])
    make(run.store, run.records[-1], tmp_path / "out")
    assert found(open_store(tmp_path / "out")) == bits(states[-1])


@pytest.mark.parametrize("what", ["a file", "a folder", "another step", "the run", "a mark and a file", "no mark"])
def test_nothing_else_is_touched(chain: tuple[Chain, list[dict[str, Any]]], tmp_path: Path, what: str) -> None:
    """A folder with anything else in it is refused, and stays as it is. Guards against a typing error that costs a
    run."""
    run, _ = chain
    out = Path(run.store.url) if what == "the run" else tmp_path / "out"
    out.mkdir(exist_ok=True)
    if what == "a folder":
        (out / "inner").mkdir()
    elif what in ("another step", "a mark and a file", "no mark"):
        make(run.store, run.records[1 if what == "another step" else 2], out)
        (out / "ckpt-3.index").unlink(missing_ok=True)
        if what == "no mark":
            (out / materialize.MARK).unlink()
    if what in ("a file", "a mark and a file"):
        (out / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    with pytest.raises(InvalidRequest, match=f"{out} holds .* already: name a folder"):
        make(run.store, run.records[-1], out)
    assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == before
