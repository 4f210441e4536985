"""The objects of a `tf.train.Checkpoint`: their names, their variables, and the values of these on this worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def walk(root: Any, past: Callable[[str, Any], bool] = lambda name, found: False) -> Iterator[tuple[str, Any]]:
    """All objects below a checkpoint, by the names with which the keys of their values begin: the shortest ones.

    past: what is left out, with all that is reached through it alone, told its last name and itself.
    """
    seen = {id(root)}
    queue = [("", root)]
    for path, found in queue:
        for name, child in children(found).items():
            if id(child) not in seen and not past(name, child):
                seen.add(id(child))
                # With Checkpoint(root=...), that object is the root.
                queue.append((path if found is root and name == "root" else f"{path}{name}/", child))
        yield path.removesuffix("/"), found


def children(found: Any) -> dict[str, Any]:
    """What TensorFlow saves below an object, by name."""
    import tensorflow as tf

    return dict(tf.train.TrackableView.children(found))


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
