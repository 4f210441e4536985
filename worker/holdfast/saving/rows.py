"""Which rows of a table have changed: a digest of each row, compared with the one of the last commit.

**The hash.** A row is taken as words x of 32 bits, and its digest is the sum of W·x modulo the prime 2^61 - 1, with a
random weight W below the prime for each place in the row, drawn once in a process. Two rows of one length that differ
have equal digests with a probability of 2^-61, whatever their bytes: the multilinear hash of Carter and Wegman,
"Universal classes of hash functions", 1979, here without its added constant, which compares nothing. (A sum modulo 2^64
would be simpler and weaker: for a float that changes its sign alone it is 2^-33.) So in a run in which a million rows
change between two saves, a million saves long, a change is missed with a probability of one in two million.

**Its speed.** numpy has no fast product of integers of 64 bits, but its matrix product of floats uses the processor's
widest instructions, and is exact as long as every sum is below 2^53. So each weight is cut into limbs of so few bits
that it is; one product gives the sums of all limbs, and shifts join them: modulo 2^61 - 1, a shift is a rotation. The
digest is not reduced to the least residue, since equal digests are what matters, and equal numbers are congruent.

Bytes are compared, not values: NaNs with other payloads differ, and so do 0.0 and -0.0.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Digests: TypeAlias = NDArray[np.int64]

_BLOCK = 128 << 10
"""Bytes to digest at a time. They and what is made of them stay in cache, and are too few for a library of matrix
products to spread them over more processors than the caller's."""

_PRIME_BITS = 61
_PRIME = (1 << _PRIME_BITS) - 1
_EXACT_BITS = 53  # of a float

_drawing = threading.Lock()
"""Held by who may be the first to need some weights: two threads must not draw others."""


def table(data: memoryview | bytes, row: int) -> NDArray[np.uint8]:
    """Return whole rows of `row` bytes as a matrix of bytes, which is not a copy."""
    return np.frombuffer(data, np.uint8).reshape(-1, row)


def digests(rows: NDArray[np.uint8]) -> Digests:
    """Return the digest of each row of a matrix of bytes, with up to 16 KiB a row.

    It can be compared with digests of rows of the same length from the same process.
    """
    count, size = rows.shape
    words = -(-size // 4)
    with _drawing:
        weights, bits = _weights(words)
    step = max(1, _BLOCK // size)
    padded = np.zeros((step, 4 * words), np.uint8)
    floats, sums = np.empty((step, words)), np.empty((step, weights.shape[1]))
    limbs, rotated = np.empty((2, weights.shape[1], step), np.int64)
    places: NDArray[np.int64] = np.arange(len(limbs), dtype=np.int64)[:, None] * bits
    found = np.empty(count, np.int64)
    for begin in range(0, count, step):
        block = rows[begin : begin + step]
        n = len(block)
        if size % 4:
            padded[:n, :size] = block
            block = padded[:n]
        np.copyto(floats[:n], block.view(np.int32))
        np.matmul(floats[:n], weights, out=sums[:n])
        here, turned = limbs[:, :n], rotated[:, :n]
        np.copyto(here, sums[:n].T, casting="unsafe")
        # limb * 2^place, as the prime sees it. Shifts of negative numbers round down, so this holds for them as well.
        np.left_shift(here, places, out=turned)
        np.bitwise_and(turned, _PRIME, out=turned)
        np.right_shift(here, _PRIME_BITS - places, out=here)
        np.add(here, turned, out=here)
        np.sum(here, axis=0, out=found[begin : begin + step])
    return found


@cache
def _weights(words: int) -> tuple[NDArray[np.float64], int]:
    """Return the weights of rows of so many words, a column for each limb, the lowest first, and the bits of a limb."""
    bits = _EXACT_BITS - 31 - (words - 1).bit_length()
    weights = np.random.default_rng().integers(0, _PRIME, words)
    limbs = [weights >> place & ((1 << bits) - 1) for place in range(0, _PRIME_BITS, bits)]
    return np.array(limbs).T.astype(np.float64, order="C"), bits


def changed(before: Digests | None, now: Digests) -> NDArray[np.int64]:
    """Return the numbers of the rows whose digests are not as before, ascending. Without any before, all are."""
    return np.arange(len(now)) if before is None else np.flatnonzero(before != now)
