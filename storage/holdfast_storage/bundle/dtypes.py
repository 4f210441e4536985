"""TensorFlow's dtypes by number, as `tensorflow/core/framework/types.proto` gives them."""

from __future__ import annotations

_DTYPES: dict[int, tuple[str, int | None]] = {
    1: ("float32", 4),
    2: ("float64", 8),
    3: ("int32", 4),
    4: ("uint8", 1),
    5: ("int16", 2),
    6: ("int8", 1),
    7: ("string", None),
    8: ("complex64", 8),
    9: ("int64", 8),
    10: ("bool", 1),
    11: ("qint8", 1),
    12: ("quint8", 1),
    13: ("qint32", 4),
    14: ("bfloat16", 2),
    15: ("qint16", 2),
    16: ("quint16", 2),
    17: ("uint16", 2),
    18: ("complex128", 16),
    19: ("float16", 2),
    20: ("resource", None),
    21: ("variant", None),
    22: ("uint32", 4),
    23: ("uint64", 8),
    24: ("float8_e5m2", 1),
    25: ("float8_e4m3fn", 1),
    26: ("float8_e4m3fnuz", 1),
    27: ("float8_e4m3b11fnuz", 1),
    28: ("float8_e5m2fnuz", 1),
    # Narrower than a byte, but TensorFlow stores them unpacked, one to a byte.
    29: ("int4", 1),
    30: ("uint4", 1),
    31: ("int2", 1),
    32: ("uint2", 1),
    33: ("float4_e2m1fn", 1),
}

STRING, VARIANT = 7, 21
ENCODED = (STRING, VARIANT)
"""Dtypes whose stored bytes say how long each element is: one byte at least. See `encoded`."""

_JOINED = frozenset({*range(1, 7), *range(8, 15), 18, 29, 30})
"""Dtypes that TensorFlow's reader joins from slices. Of float16 it says "Dtype half not supported"."""

_MOST_DIMENSIONS_JOINED = 8
"""The most dimensions of a sliced tensor. At nine, TensorFlow's reader ends its process."""


def name(number: int) -> str:
    """Return TensorFlow's name of a dtype, such as `float32`, or `dtype-99` for an unknown number."""
    known = _DTYPES.get(number)
    return known[0] if known else f"dtype-{number}"


def itemsize(number: int) -> int | None:
    """Return the bytes of one element in a shard; None for strings, variants, resources and unknown numbers."""
    known = _DTYPES.get(number)
    return known[1] if known else None


def are_slices_joined(number: int, num_dimensions: int) -> bool:
    """Return whether stock TensorFlow reads such a tensor if it is stored in slices. Whole tensors it always reads."""
    return number in _JOINED and num_dimensions <= _MOST_DIMENSIONS_JOINED
