"""The objects of a `tf.train.Checkpoint`: their names, their variables, and the variables' values on this worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any


def walk(root: Any, past: Callable[[str, Any], bool] = lambda name, found: False) -> Iterator[tuple[str, Any]]:
    """Yield all objects below a checkpoint, with the shortest names with which the keys of their values begin.

    past: tells, given its last name and itself, whether to skip an object, with all that is reached only through it.
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


def few(names: Sequence[str], limit: int = 5) -> str:
    """Return the first of some names, as words; the names may be keys of variables."""
    shown = ", ".join(name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE") for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown or "none"


def children(found: Any) -> dict[str, Any]:
    """Return what TensorFlow saves below an object, by name."""
    import tensorflow as tf

    return dict(tf.train.TrackableView.children(found))


def variable_of(trackable: Any) -> Any:
    """Return the tf.Variable that an object of a checkpoint is or (Keras 3) holds; None for any other object."""
    import tensorflow as tf

    if isinstance(trackable, tf.Variable):
        return trackable
    value = getattr(trackable, "value", None)
    return value if isinstance(value, tf.Variable) else None


def local_components(variable: Any) -> tuple[Any, ...]:
    """Return this process's variables of a tf.Variable, one for each local replica; itself if it is not distributed."""
    import tensorflow as tf

    if not isinstance(variable, tf.distribute.DistributedValues):
        return (variable,)
    return tuple(variable.distribute_strategy.experimental_local_results(variable))


_KINDS = {
    "CollectiveAllReduceStrategy": "MultiWorkerMirroredStrategy",
    "ParameterServerStrategyV2": "ParameterServerStrategy",
}


def kind_of(strategy: Any) -> str:
    """Return the name under which tf.distribute exports a strategy's class."""
    name = type(strategy).__name__
    return _KINDS.get(name, name)


def is_trained(owner: Any, dtype: Any) -> bool:
    """Return whether an object of a checkpoint, with a value of this dtype, is a weight."""
    # A step counter made by tf.Variable(0) is called trainable, too.
    return bool(getattr(owner, "trainable", False)) and can_be_trained(dtype)


def can_be_trained(dtype: Any) -> bool:
    """Return whether numbers of this dtype have gradients."""
    return bool(dtype.is_floating or dtype.is_complex)
