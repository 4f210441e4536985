"""Checksums: the ones that every stored byte is judged by."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast_storage.bundle.crc import combine, crc32c, mask, unmask

CRCS = st.integers(0, 2**32 - 1)


def test_the_check_value_of_the_castagnoli_polynomial() -> None:
    """The CRC has the check value of the Castagnoli polynomial. Guards against another polynomial, which agrees with
    itself in every other test and with no stored file."""
    assert crc32c(b"123456789") == 0xE3069283


def test_masking_is_that_of_leveldb() -> None:
    """Masking is LevelDB's. Guards against a rotation the other way round, which agrees only with itself."""
    assert mask(crc32c(b"foo")) != crc32c(b"foo")
    assert mask(0) == 0xA282EAD8
    assert mask(1) == 0xA284EAD8


@given(CRCS)
def test_unmask_undoes_mask(crc: int) -> None:
    """Unmasking undoes masking. Guards against an overflow out of 32 bits that loses the CRC for some values only."""
    assert unmask(mask(crc)) == crc
    assert 0 <= mask(crc) < 2**32


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_combine_is_the_crc_of_the_concatenation(a: bytes, b: bytes) -> None:
    """Combining two CRCs gives that of the concatenation. Guards against an object's CRC, put together from its pieces,
    that no reader computes."""
    assert combine(crc32c(a), crc32c(b), len(b)) == crc32c(a + b) == crc32c(b, crc32c(a))


@given(CRCS, CRCS, CRCS, st.integers(0, 2**40), st.integers(0, 2**40))
def test_combine_is_associative_for_large_pieces(a: int, b: int, c: int, len_b: int, len_c: int) -> None:
    """Combining is associative for pieces of gigabytes. Guards against wrong powers of the polynomial that no small
    example reaches."""
    left = combine(combine(a, b, len_b), c, len_c)
    right = combine(a, combine(b, c, len_c), len_b + len_c)
    assert left == right
