"""Checks of decoded JSON, to be put together to the specification of a format.

A check is a function that returns nothing, or raises `Unexpected` with the place, what stands there and what was
expected. See docs/design/016-what-is-read.md.
"""

from __future__ import annotations

import json
import re
import reprlib
import sys
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

Check = Callable[[Any], None]

MOST_VALUES = 2_000_000
"""The most values in one object. A value takes two bytes of JSON and up to a hundred of memory."""

LONGEST_NAME = 4096
"""The most characters of a text that is not said to be longer."""

DEEPEST = 100
"""How deep free JSON may nest. Who reads it has a limited stack."""

_LARGEST = sys.float_info.max

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100


class Unexpected(ValueError):
    """Something is not what it must be. The message says where it stands, what it is and what was expected."""

    def __init__(self, what: str, place: str = "") -> None:
        super().__init__(f"{place} {what}" if place else what)
        self.what = what
        self.place = place

    def within(self, outer: str) -> Unexpected:
        """The same, as seen from outside."""
        dot = "" if not self.place or self.place.startswith("[") else "."
        return Unexpected(self.what, f"{outer}{dot}{self.place}")


def load(data: bytes) -> Any:
    """Decode JSON in UTF-8. Raises Unexpected for anything else, for NaN, and for a field that is there twice."""
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > MOST_VALUES:
        raise Unexpected(f"holds more than {MOST_VALUES:,} values")
    try:
        return json.loads(data.decode(), parse_constant=_no_constant, object_pairs_hook=_unique)
    except RecursionError:
        raise Unexpected("nests too deep") from None
    except ValueError as error:
        raise Unexpected(f"is not JSON: {error}") from None


def whole(most: int, least: int = 0) -> Check:
    """An integer in a range. True and False are none."""

    def check(value: Any) -> None:
        if type(value) is not int or not least <= value <= most:
            raise _wrong(value, f"an integer from {least} to {most}")

    return check


def number(most: float, least: float = 0.0) -> Check:
    """A number in a range. NaN is in none."""

    def check(value: Any) -> None:
        if type(value) not in (int, float) or not least <= value <= most:
            raise _wrong(value, f"a number from {least:g} to {most:g}")

    return check


def finite(value: Any) -> None:
    """Any finite number."""
    if type(value) not in (int, float) or not -_LARGEST <= value <= _LARGEST:
        raise _wrong(value, "a finite number")


def flag(value: Any) -> None:
    """True or False."""
    if type(value) is not bool:
        raise _wrong(value, "true or false")


def one_of(*values: str) -> Check:
    """One of a few words."""

    def check(value: Any) -> None:
        if value not in values:
            raise _wrong(value, f"one of {', '.join(values)}")

    return check


def text(longest: int) -> Check:
    """Any text that can be encoded, of so many characters at most."""

    def check(value: Any) -> None:
        if type(value) is not str or len(value) > longest or not _is_encodable(value):
            raise _wrong(value, f"text of at most {longest} characters")

    return check


def matching(pattern: str, what: str) -> Check:
    """A text that matches a regular expression as a whole."""
    compiled = re.compile(pattern)

    def check(value: Any) -> None:
        if type(value) is not str or len(value) > LONGEST_NAME or not compiled.fullmatch(value):
            raise _wrong(value, what)

    return check


def read_by(parse: Callable[[str], object], what: str) -> Check:
    """A text that a function understands: it raises no ValueError and does not return None."""

    def check(value: Any) -> None:
        try:
            if type(value) is str and len(value) <= LONGEST_NAME and parse(value) is not None:
                return
        except ValueError:
            pass
        raise _wrong(value, what)

    return check


def maybe(inner: Check) -> Check:
    """The same, or null."""

    def check(value: Any) -> None:
        if value is not None:
            inner(value)

    return check


def listed(inner: Check, most: int, least: int = 0) -> Check:
    """A list of so many."""

    def check(value: Any) -> None:
        if type(value) is not list or not least <= len(value) <= most:
            raise _wrong(value, f"a list of {least} to {most:,}")
        for position, each in enumerate(value):
            try:
                inner(each)
            except Unexpected as error:
                raise error.within(f"[{position}]") from None

    return check


def mapped(key: Check, inner: Check, most: int) -> Check:
    """An object with at most so many fields, of any names that pass."""

    def check(value: Any) -> None:
        if type(value) is not dict or len(value) > most:
            raise _wrong(value, f"an object with at most {most:,} fields")
        for name, each in value.items():
            key(name)
            try:
                inner(each)
            except Unexpected as error:
                raise error.within(f"[{_short.repr(name)}]") from None

    return check


def fields(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these fields. Others are ignored: a later version may have added them."""
    checks = [*required.items(), *(optional or {}).items()]

    def check(value: Any) -> None:
        if type(value) is not dict:
            raise _wrong(value, "an object")
        for name, inner in checks:
            if name in value:
                try:
                    inner(value[name])
                except Unexpected as error:
                    raise error.within(name) from None
            elif name in required:
                raise Unexpected(f"lacks {name}")

    return check


def free(value: Any) -> None:
    """An object of any JSON, which a user gave."""
    if type(value) is not dict:
        raise _wrong(value, "an object")
    level: list[Any] = [value]
    for _ in range(DEEPEST):  # without recursion, which has a limit of its own
        if any(isinstance(each, float) and not isfinite(each) for each in level):
            raise Unexpected("holds a number that is too large")
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [each for values in inner for each in values]
        if not level:
            return
    raise Unexpected(f"nests more than {DEEPEST} deep")


def _wrong(value: object, expected: str) -> Unexpected:
    return Unexpected(f"is {_short.repr(value)}, and not {expected}")


def _is_encodable(value: str) -> bool:
    """Whether the text is one of characters, or of bytes as Python stands for them in names of files."""
    if value.isascii():
        return True
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _no_constant(name: str) -> object:
    raise Unexpected(f"holds {name}, which is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Unexpected("has a field twice")
    return found
