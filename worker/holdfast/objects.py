"""The objects of a `tf.train.Checkpoint`, by name."""

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
