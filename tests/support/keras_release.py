"""What the Keras that is installed can do."""

from __future__ import annotations

from importlib.metadata import version

import pytest

_RELEASE = tuple(map(int, version("keras").split(".")[:2]))

needs_right_metrics = pytest.mark.skipif(
    _RELEASE < (3, 10), reason="on several replicas, the metrics of this Keras are wrong, and the strategy refuses it"
)
needs_last_batch = pytest.mark.skipif(
    _RELEASE < (3, 11),
    reason="of several batches at a time, this Keras tells the first, as if it had trained only that",
)
