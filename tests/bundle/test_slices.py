"""Table keys of slices."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast_storage.bundle.slices import Extents, parse_key, slice_key

NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-200, 20_000)
SLICES = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=4).map(tuple)


def test_a_key_byte_for_byte() -> None:
    """A slice's key is byte for byte TensorFlow's. Guards against another spelling, which TensorFlow cannot find."""
    assert slice_key("w", ((0, 6), (0, 4))) == b"\x00w\x00\x01\x01\x02\x80\x86\x80\x84"
    assert slice_key("w", ((0, -1),)) == b"\x00w\x00\x01\x01\x01\x80\x7f"
    assert slice_key("a\0b", ()) == b"\x00a\x00\xffb\x00\x01\x00"


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (63, b"\xbf"),
        (64, b"\xc0\x40"),
        (8191, b"\xdf\xff"),
        (8192, b"\xe0\x20\x00"),
        (-64, b"\x40"),
        (-65, b"\x3f\xbf"),
    ],
)
def test_numbers_grow_a_byte_at_the_right_value(number: int, encoded: bytes) -> None:
    """Numbers get another byte at the right value. Guards against a width that is wrong for tensors of just those
    sizes."""
    assert slice_key("", ((number, 0),)) == b"\x00\x00\x01\x01\x01" + encoded + b"\x80"


@given(st.text(max_size=20), SLICES)
@example("", ())
@example("\x00\x01\xff", ((2**63 - 1, -(2**63)),))
def test_a_key_says_which_slice_it_is(name: str, extents: Extents) -> None:
    """A key parses to its name and slice. Guards against names and numbers whose bytes look like an escape or
    an end."""
    assert parse_key(slice_key(name, extents)) == (name, extents)


@given(NUMBERS, NUMBERS)
def test_keys_are_ordered_as_their_numbers(a: int, b: int) -> None:
    """Keys are sorted like their numbers. Guards against slices that are not in the order of their starts."""
    assert (slice_key("w", ((a, 1),)) < slice_key("w", ((b, 1),))) == (a < b)


@given(st.binary(max_size=30))
@example(b"\x00w\x00\x01\x01\x01\x80")
@example(b"\x00w\x00\x01\x02\x00\x01\x80\x80")
@example(b"\x00w\x00\x01\x01\x01\xc0\x01\x80")
@example(b"\x00w\x00\x01")
def test_any_key_is_a_name_a_slice_or_refused(key: bytes) -> None:
    """Any key is a name, a slice, or refused. Guards against accepting a key that only looks like a slice's, or two
    spellings of one slice."""
    try:
        name, extents = parse_key(key)
    except ValueError:
        assert key.startswith(b"\x00")
        return
    spelled = name.encode("utf-8", "surrogateescape") if extents is None else slice_key(name, extents)
    assert spelled == key
