"""What is behind an object of a checkpoint: a variable, and its values on this worker."""

from __future__ import annotations

from typing import Any


def variable_of(trackable: Any) -> Any:
    """The tf.Variable that an object of a checkpoint is, or (Keras 3) holds; None for any other object."""
    import tensorflow as tf

    if isinstance(trackable, tf.Variable):
        return trackable
    value = getattr(trackable, "value", None)
    return value if isinstance(value, tf.Variable) else None


def local_components(variable: Any) -> tuple[Any, ...]:
    """The variables that this process holds of a tf.Variable, one a local replica; itself where not distributed."""
    import tensorflow as tf

    if not isinstance(variable, tf.distribute.DistributedValues):
        return (variable,)
    return tuple(variable.distribute_strategy.experimental_local_results(variable))


def is_trained(owner: Any, dtype: Any) -> bool:
    """Whether an object of a checkpoint, with a value of this dtype, is a weight."""
    # A step counter made by tf.Variable(0) is called trainable, too.
    return bool(getattr(owner, "trainable", False)) and can_be_trained(dtype)


def can_be_trained(dtype: Any) -> bool:
    """Whether there are gradients of such numbers."""
    return bool(dtype.is_floating or dtype.is_complex)
