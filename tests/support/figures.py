"""Figures that tests measure and nobody should have to look for: they stand in a table at the end of the output.

A pytest plugin. Where tests run in several processes, each hands its own over when it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

Figure = Callable[[str, object], None]
"""`figure(what, value)`: the fixture that takes a line of the table."""

LINES = pytest.StashKey[list[tuple[str, str]]]()


@pytest.fixture(scope="session")
def figure(pytestconfig: pytest.Config) -> Figure:
    """Takes a figure for the table at the end."""
    lines = pytestconfig.stash.setdefault(LINES, [])
    return lambda what, value: lines.append((what, str(value)))


def spread(seconds: Sequence[float]) -> str:
    """Median and worst of some times."""
    ordered = sorted(seconds)
    return f"median {ordered[len(ordered) // 2]:.2f} s, worst {ordered[-1]:.2f} s"


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["figures"] = session.config.stash.get(LINES, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """One of several processes has ended."""
    lines = node.config.stash.setdefault(LINES, [])
    lines += getattr(node, "workeroutput", {}).get("figures", [])  # one that crashed has none


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(LINES, [])
    if lines:
        terminalreporter.section("figures")
        width = max(len(what) for what, _ in lines)
        for what, value in lines:
            terminalreporter.line(f"{what:<{width}}  {value}")
