"""How two checkpoints differ, against numpy on the states that were saved."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast import comparing
from holdfast.comparing import Difference, compare, to_read
from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.checkpoint.contents import read_contents
from holdfast_storage.errors import CheckpointAbsent, CheckpointDamaged
from support.chains import Chain
from support.stores import new_store


def differences(one: Chain, other: Chain, a: int = -1, b: int = -1) -> dict[str, Difference]:
    first, second = read_contents(one.store, one.records[a]), read_contents(other.store, other.records[b])
    return {key: each for (_, key), each in compare(first, second, lambda _: None).items()}


def chain(path: Path, **cuts: tuple[int, ...]) -> Chain:
    path.mkdir()
    return Chain(new_store("posix", path), 2, cuts)


def expected(a: Any, b: Any) -> tuple[int, float, float, float]:
    delta = b.astype(np.float64) - a.astype(np.float64)
    norm, whole = math.hypot(*delta.flat), math.hypot(*a.astype(np.float64).flat)
    return int((a != b).sum()), norm, float(np.abs(delta).max()), norm / whole


def _touched(random: Any, value: Any) -> Any:
    """The same with some rows changed."""
    rows = random.random(len(value)) < 0.4
    return np.where(rows.reshape(-1, *[1] * (value.ndim - 1)), value * 3 + 1, value).astype(value.dtype)


@pytest.mark.parametrize("block", [3, 1 << 17])
@pytest.mark.parametrize("seed", range(4))
def test_full_and_delta_in_any_slices(tmp_path: Path, seed: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever slices each side is stored in, and however many deltas it has, the norms are those of the states. Guards
    against slices that are compared with their neighbours, rows of an old delta, and blocks that are left out."""
    monkeypatch.setattr(comparing, "_BLOCK", block)
    random = np.random.default_rng(seed)
    start = {key: random.normal(size=(11, 3)).astype(kind) for key, kind in (("t", "float32"), ("u", "float64"))}
    start |= {"n": random.integers(-9, 9, (6,)), "h": random.normal(size=(4,)).astype("float16")}
    one, other = chain(tmp_path / "a", t=(4, 7)), chain(tmp_path / "b", t=(5,), u=(2, 3), n=(1,))
    one.full(start)
    states = [start]
    other.full(start)
    for _ in range(2):
        states.append({key: _touched(random, value) for key, value in states[-1].items()})
        other.delta(states[-2], states[-1], ["t", "u"])
    found = differences(one, other)
    assert found.keys() == {key for key in start if (start[key] != states[-1][key]).any()}
    for key, each in found.items():
        told = (each.elements, each.l2, each.max_abs, each.relative)
        assert told == pytest.approx(expected(start[key], states[-1][key]), rel=1e-12), key
    assert not differences(one, other, b=0)


def test_what_one_store_has_once_is_not_read(tmp_path: Path) -> None:
    """A checkpoint is equal to itself without a byte that is read. What equals it in another place is
    read. Guards against a comparison that costs two restores, and against trust in equal checksums."""
    state = {"t": np.ones((6, 2), np.float32)}
    one, other = chain(tmp_path / "a", t=(3,)), chain(tmp_path / "b", t=(3,))
    for each in (one, other):
        each.full(state)
    a, b = (read_contents(each.store, each.records[0]) for each in (one, other))
    assert (to_read(a, a), to_read(a, b)) == (0, 2 * 6 * 2 * 4)


def test_numbers_that_are_not_finite_and_those_that_overflow(tmp_path: Path) -> None:
    """Elements without a finite difference are counted apart, and a NaN that stays is no difference. Guards against a
    norm that says NaN of a whole tensor, and one that overflows where it need not."""
    nan, inf = math.nan, math.inf
    a = np.array([nan, nan, 1.0, inf, 1e200, 0.0])
    b = np.array([nan, 2.0, inf, inf, -1e200, -0.0])
    one, other = chain(tmp_path / "a"), chain(tmp_path / "b")
    one.full({"x": a, "zero": np.zeros(2), "flag": np.array([True, False]), "big": np.array(1 << 62)})
    other.full({"x": b, "zero": np.ones(2), "flag": np.array([True, True]), "big": np.array((1 << 62) + 1)})
    found = differences(one, other)
    assert found["x"] == Difference(4, 2e200, 2e200, 2.0, 2)
    assert found["zero"] == Difference(2, math.sqrt(2.0), 1.0, None)
    assert found["flag"] == Difference(1, 1.0, 1.0, 1.0)
    assert found["big"].elements == 1  # though no float64 has the difference


def test_bfloat16_and_dtypes_without_arithmetic() -> None:
    """bfloat16 is computed with as the numbers that it has. Guards against norms of their bits."""
    sums = comparing._Sums("bfloat16")
    sums.add(np.array([0x3F80, 0x4000], "<u2"), np.array([0x3F80, 0x4040], "<u2"))  # 1, 2 and 1, 3
    assert sums.difference() == Difference(1, 1.0, 1.0, 1 / math.sqrt(5.0))
    sums = comparing._Sums("float8_e5m2")
    sums.add(np.array([1, 2], "u1"), np.array([1, 3], "u1"))
    assert sums.difference() == Difference(1)


def test_strings_differ_or_not(tmp_path: Path) -> None:
    """A string tensor is the same or not, and an empty tensor is. Guards against norms of encoded bytes."""
    states = [{"s": _string(text), "empty": np.zeros((0, 3), np.float32)} for text in (b"one", b"two")]
    one, other = chain(tmp_path / "a"), chain(tmp_path / "b")
    one.full(states[0])
    other.full(states[1])
    other.full(states[0])
    assert differences(one, other, b=0) == {"s": Difference(1)}
    assert not differences(one, other)


def _string(text: bytes) -> bytes:
    """A scalar string as TensorFlow stores it."""
    return bytes([len(text)]) + struct.pack("<I", mask(crc32c(struct.pack("<I", len(text))))) + text


@pytest.mark.parametrize("side", [0, 1])
def test_every_byte_is_verified(tmp_path: Path, side: int) -> None:
    """A byte that is not what was written ends the comparison, on either side, and so does a cut. Guards against
    norms of what nobody saved."""
    state = {"t": np.arange(12, dtype=np.float32).reshape(6, 2)}
    chains = [chain(tmp_path / "a", t=(3,)), chain(tmp_path / "b", t=(2,))]
    for each in chains:
        each.full(state)
    for path in sorted((tmp_path / "ab"[side]).rglob("*.data-*")):
        sound = path.read_bytes()
        if not sound:
            continue
        path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        with pytest.raises(CheckpointDamaged, match=path.name):
            differences(*chains)
        path.write_bytes(sound[:-1])
        with pytest.raises(CheckpointAbsent, match=path.name):
            differences(*chains)
        path.write_bytes(sound)
    assert not differences(*chains)
