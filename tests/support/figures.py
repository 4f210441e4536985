"""Figures that tests measure and nobody should have to look for: they stand in a table at the end of the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

Figure = Callable[[str, object], None]
"""`figure(what, value)`: the fixture that takes a line of the table."""

LINES = pytest.StashKey[list[tuple[str, str]]]()


def spread(seconds: Sequence[float]) -> str:
    """Median and worst of some times."""
    ordered = sorted(seconds)
    return f"median {ordered[len(ordered) // 2]:.2f} s, worst {ordered[-1]:.2f} s"


def print_figures(reporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(LINES, [])
    if lines:
        reporter.section("figures")
        width = max(len(what) for what, _ in lines)
        for what, value in lines:
            reporter.line(f"{what:<{width}}  {value}")
