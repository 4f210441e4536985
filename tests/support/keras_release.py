"""Which Keras is here."""

from __future__ import annotations

from importlib.metadata import version

import pytest

needs_right_metrics = pytest.mark.skipif(
    tuple(map(int, version("keras").split(".")[:2])) < (3, 10),
    reason="on several replicas, the metrics of this Keras are wrong, and the strategy refuses it",
)
