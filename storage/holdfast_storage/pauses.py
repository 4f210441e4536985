"""How long to wait between tries."""

from __future__ import annotations

from collections.abc import Iterator


def pauses(first: float = 0.05, longest: float = 2.0) -> Iterator[float]:
    """Yield seconds to wait before the next try, without end: each time twice as many, up to the longest."""
    while True:
        yield first
        first = min(2 * first, longest)
