"""Everything that a Keras model needs to go on training, as one `tf.train.Checkpoint`."""

from __future__ import annotations

from typing import Any


def training_state(model: Any) -> Any:
    """A `tf.train.Checkpoint` of all that `model` needs to go on."""
    raise NotImplementedError
