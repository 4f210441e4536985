"""Checksums of tensors that are stored otherwise than as their elements."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.encoded import entry_crc32c
from holdfast_storage.errors import CheckpointDamaged

STRING, VARIANT = 7, 21
LENGTHS = struct.pack("<II", 2, 0)
STORED = b"\x02\x00" + struct.pack("<I", mask(crc32c(LENGTHS))) + b"hi"


def test_a_string_tensor() -> None:
    """The CRC of a string tensor contains its lengths as fixed-width numbers. Guards against taking the stored varints
    instead."""
    expected = crc32c(LENGTHS + STORED[2:])
    assert entry_crc32c(STRING, (2,), [STORED]) == mask(expected)


def test_a_numeric_tensor() -> None:
    """The CRC of any other tensor is that of its bytes, in any buffer. Guards against a CRC that depends on the kind of
    buffer."""
    assert entry_crc32c(1, (1,), [memoryview(b"abcd")]) == mask(crc32c(b"abcd"))


@pytest.mark.parametrize("position", range(len(STORED)))
def test_a_damaged_string_tensor_has_another_crc_or_none(position: int) -> None:
    """A change of any byte of a string tensor shows. Guards against damage in the lengths that passes."""
    damaged = bytearray(STORED)
    damaged[position] ^= 1
    with contextlib.suppress(CheckpointDamaged):
        assert entry_crc32c(STRING, (2,), [bytes(damaged)]) != entry_crc32c(STRING, (2,), [STORED])


@given(st.sampled_from([STRING, VARIANT]), st.integers(0, 5), st.binary(max_size=40))
def test_any_bytes_have_a_crc_or_are_damaged(dtype: int, elements: int, data: bytes) -> None:
    """Any bytes have a CRC or are damaged. Guards against lengths that run past the end and end in another kind of
    error."""
    with contextlib.suppress(CheckpointDamaged):
        entry_crc32c(dtype, (elements,), [data])
