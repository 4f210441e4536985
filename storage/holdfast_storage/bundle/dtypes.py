"""TensorFlow's dtypes by number."""

from __future__ import annotations


def name(number: int) -> str:
    """TensorFlow's name of a dtype, such as `float32`; `dtype-99` for a number that is not known."""
    raise NotImplementedError


def itemsize(number: int) -> int | None:
    """Bytes of one element in a shard; None for strings, variants, resources and unknown numbers."""
    raise NotImplementedError
