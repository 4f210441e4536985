"""Settings for all tests."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from support.figures import LINES, Figure, print_figures

pytest_plugins = ["servers.fixtures"]

# The machines are shared: how long one example takes says nothing. Derandomised, so that a failure comes back.
settings.register_profile("holdfast", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("holdfast")


@pytest.fixture(scope="session")
def figure(pytestconfig: pytest.Config) -> Figure:
    """Takes a figure for the table at the end."""
    lines = pytestconfig.stash.setdefault(LINES, [])
    return lambda what, value: lines.append((what, str(value)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    print_figures(terminalreporter, config)
