"""Digests of rows: what has changed is found, all of it and nothing else."""

from __future__ import annotations

import threading
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.saving import rows
from holdfast.saving.rows import changed, digests, table
from holdfast.saving.tables import LONGEST_ROW

PRIME = (1 << 61) - 1
SIZES = (1, 2, 3, 4, 7, 12, 64, 130, 1000, 1024, LONGEST_ROW)


def matrix(count: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size), np.uint8)


def by_the_book(row: np.ndarray) -> int:
    """The sum of weight times word, with Python's integers."""
    words = -(-len(row) // 4)
    limbs, bits = rows._weights(words)
    padded = np.zeros(4 * words, np.uint8)
    padded[: len(row)] = row
    weights = [sum(int(limb) << (bits * number) for number, limb in enumerate(each)) for each in limbs]
    assert all(0 <= weight < PRIME for weight in weights)
    return sum(w * int(x) for w, x in zip(weights, padded.view(np.int32), strict=True)) % PRIME


@pytest.mark.parametrize("size", SIZES)
def test_the_hash_is_the_one_whose_bound_is_known(size: int) -> None:
    """A digest is the sum modulo the prime, exactly, for the largest sums as well. Guards against floats that are
    rounded: then rows that differ would have equal digests more often than anybody has proven."""
    extremes = [np.full(4, byte, np.uint8) for byte in (0x00, 0xFF, 0x80, 0x7F)]
    extremes += [np.array(bytes_, np.uint8) for bytes_ in ([0, 0, 0, 0x80], [0xFF, 0xFF, 0xFF, 0x7F])]
    found = np.vstack([matrix(20, size), *(np.resize(word, (1, size)) for word in extremes)])
    for row, digest in zip(found, digests(found), strict=True):
        # More than the least residue, and perhaps taken for negative: congruent all the same.
        assert by_the_book(row) in (int(digest) % PRIME, (int(digest) + (1 << 64)) % PRIME)


@given(
    size=st.sampled_from(SIZES),
    count=st.integers(0, 400),
    bits=st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 1 << 30)), max_size=20),
    seed=st.integers(0, 9),
)
def test_all_rows_that_change_are_found_and_no_other(
    size: int, count: int, bits: list[tuple[int, int]], seed: int
) -> None:
    """Whatever bits of whatever rows flip, these rows are found. Guards against a row that a checkpoint lacks, and
    against deltas that hold what has not changed."""
    before = matrix(count, size, seed)
    after = before.copy()
    for row, bit in bits if count else []:
        after[row % count, bit // 8 % size] ^= 1 << bit % 8
    expected = [number for number in range(count) if before[number].tobytes() != after[number].tobytes()]
    assert changed(digests(before), digests(after)).tolist() == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (np.float32(0.0), np.float32(-0.0), False),
        (np.uint32(0x7FC00000).view(np.float32), np.uint32(0x7FC00001).view(np.float32), False),
        (np.float32("nan"), np.float32("nan"), True),
        (np.False_, np.True_, False),
        (np.uint16(0x3F80), np.uint16(0x3F81), False),  # of bfloat16
    ],
)
def test_bytes_count_and_not_values(one: np.generic, other: np.generic, same: bool) -> None:
    """Rows are equal if their bytes are. Guards against a restore that is equal by value and not bit by bit, and
    against tables of NaN of which every save writes everything."""
    made = [table(np.full((3, 5), value).tobytes(), 5 * value.dtype.itemsize) for value in (one, other)]
    assert (digests(made[0]) == digests(made[1])).all() == same


def test_an_unknown_digest_is_a_change() -> None:
    """Of what no digest is known, everything has changed. Guards against a delta without what nobody has seen."""
    assert changed(None, digests(matrix(3, 8))).tolist() == [0, 1, 2]


def test_weights_are_random() -> None:
    """No two processes have the same weights. Guards against tables made so that their rows have equal digests."""
    rows._weights.cache_clear()
    before = rows._weights(16)[0]
    rows._weights.cache_clear()
    assert (rows._weights(16)[0] != before).any()


def test_several_threads_draw_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that digest for the first time at once have the same weights. Guards against a save after which
    everything seems to have changed."""
    data, found = matrix(5, 44), list[list[int]]()
    draw, both = np.random.default_rng, threading.Barrier(2, timeout=0.3)

    def slow() -> np.random.Generator:
        with suppress(threading.BrokenBarrierError):
            both.wait()  # until the other thread draws as well, which it must not
        return draw()

    monkeypatch.setattr(np.random, "default_rng", slow)
    rows._weights.cache_clear()
    threads = [threading.Thread(target=lambda: found.append(digests(data).tolist())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
