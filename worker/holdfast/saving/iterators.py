"""Finds input iterators whose position TensorFlow cannot save, before training begins."""

from __future__ import annotations

import re
from typing import Any

import tensorflow as tf

from holdfast.tensorflow_internals import tensors_of
from holdfast.trackables import walk
from holdfast_storage.errors import InvalidRequest

_REMEDY = {
    "is stateful": (
        "Use random ops without a state of their own (tf.image.stateless_random_*, seeded from the data); or, where "
        "that state may start anew after a restart, set experimental_external_state_policy of the dataset's "
        "tf.data.Options to tf.data.experimental.ExternalStatePolicy.IGNORE; or leave the iterator out. Of a pipeline "
        "from a Python generator it cannot be saved at all"
    ),
    "does not support checkpointing": "Build it of other datasets, or leave the iterator out",
}


def check_iterators(checkpoint: Any, what: str = "") -> None:
    """Raise InvalidRequest for an iterator in a `tf.train.Checkpoint` whose state cannot be saved now.

    what: a prefix for the iterator's name in the error.

    For an iterator over a Python generator that ignores outside state, this shows only after its first element.
    """
    for name, found in walk(checkpoint):
        if isinstance(found, tf.data.Iterator):
            try:
                tensors_of(found)
            except (tf.errors.FailedPreconditionError, tf.errors.UnimplementedError) as error:
                why = re.search(rf"(\w+) ({'|'.join(_REMEDY)})", str(error))
                if why is None:
                    raise
                raise InvalidRequest(
                    f"{what}{name} cannot be saved: it is an input iterator, and TensorFlow cannot save the state of "
                    f"its pipeline ({why[0]}). {_REMEDY[why[2]]}",
                    phase="snapshot",
                    object=name,
                ) from None
