"""The pauses between tries."""

from __future__ import annotations

from collections.abc import Iterator


def pauses(first: float = 0.05, longest: float = 2.0) -> Iterator[float]:
    """Yield without end the seconds before the next try: each time twice as many, up to `longest`."""
    while True:
        yield first
        first = min(2 * first, longest)
