"""Give a staged checkpoint to the live objects, by TensorFlow's own restore."""

from __future__ import annotations

from typing import Any

from holdfast.staging import Staged


def apply(checkpoint: Any, per_worker: Any | None, staged: Staged) -> Any:
    """Restore `checkpoint` and `per_worker` (`tf.train.Checkpoint`s) and return TensorFlow's load status."""
    raise NotImplementedError
