"""Settings for all tests."""

from __future__ import annotations

import gc

from hypothesis import HealthCheck, settings

pytest_plugins = ["servers.fixtures", "support.figures", "support.groups"]

# The machines are shared: how long one example takes says nothing. Derandomised, so that a failure comes back.
settings.register_profile("holdfast", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("holdfast")


def pytest_collection_finish() -> None:
    """TensorFlow and all tests are imported by now, and stay: no look for garbage need go through them again."""
    gc.collect()
    gc.freeze()
