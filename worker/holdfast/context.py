"""Where in a TensorFlow program a manager may be called, and with which variables.

TensorFlow has more ways to keep and compute values than Holdfast can save. From within the others, a manager's calls
would fail deep inside TensorFlow, or run once where the program means each step. So they are refused at once, by name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from holdfast_storage.errors import InvalidRequest

P = ParamSpec("P")
R = TypeVar("R")

NO_PARAMETER_SERVERS = (
    "it lies on a parameter server, and nothing says that this is the chief of its cluster: leave TF_CONFIG in the "
    "environment until the CheckpointManager is made, or pass cluster_resolver=strategy.cluster_resolver"
)


def eager(method: Callable[P, R]) -> Callable[P, R]:
    """Decorate a manager's method so that it refuses, before it does anything, to run inside a traced function or a
    graph."""

    @wraps(method)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        check_eager(f"CheckpointManager.{method.__name__}")
        return method(*args, **kwargs)

    # AutoGraph looks for this before it converts what a traced function calls. TensorFlow's `do_not_convert` sets it,
    # too, but this module must not import TensorFlow.
    called.autograph_info__ = {}  # type: ignore[attr-defined]
    return called


def check_eager(call: str) -> None:
    """Raise InvalidRequest if TensorFlow is not executing eagerly."""
    tf = sys.modules.get("tensorflow")
    if tf is None or tf.executing_eagerly():
        return
    if tf.inside_function():
        raise InvalidRequest(
            f"{call}() was called inside a tf.function, which would run it once, when the function is traced, and "
            "not at each step: call it eagerly, outside the function"
        )
    raise InvalidRequest(
        f"{call}() was called in a graph of TensorFlow 1, whose variables have values only in a session: call it "
        "where TensorFlow executes eagerly (not below tf.Graph().as_default(), without disable_eager_execution() or "
        "disable_v2_behavior()), or save the session with tf.compat.v1.train.Saver"
    )


def check_internals(checkpoint: Any) -> None:
    """Raise InvalidRequest if the internals of TensorFlow or Keras are not those that a restore relies on."""
    tf = sys.modules.get("tensorflow")
    if tf is not None and isinstance(checkpoint, tf.train.Checkpoint):
        from holdfast.tensorflow_internals import check

        check()


def check_layers(checkpoint: Any) -> None:
    """Raise InvalidRequest if a checkpoint leaves out parts of a Keras model. The snapshot checks what comes later."""
    tf = sys.modules.get("tensorflow")
    if tf is not None and isinstance(checkpoint, tf.train.Checkpoint):
        from holdfast.layers.unseen import check_unseen

        check_unseen(checkpoint)


def check_variables(*checkpoints: Any, served: bool) -> None:
    """Raise InvalidRequest if one of these holds a variable of a kind that Holdfast cannot save.

    The snapshot checks variables that are created later.
    served: whether this cluster has parameter servers.
    """
    tf = sys.modules.get("tensorflow")
    for checkpoint in checkpoints:
        if tf is not None and isinstance(checkpoint, tf.train.Checkpoint):
            for found in tf.train.TrackableView(checkpoint).descendants():
                name = getattr(found, "name", "")
                reason = why_not(found.device, served=served) if isinstance(found, tf.Variable) else ""
                if reason:
                    raise InvalidRequest(f"{name} cannot be saved: {reason}", object=str(name))


def why_not(device: Any, *, served: bool = False) -> str:
    """Return why variables on a device (its name or specification) cannot be saved; empty if they can."""
    name = device.to_string() if hasattr(device, "to_string") else str(device)
    if "/job:ps/" in name and not served:
        return NO_PARAMETER_SERVERS
    if "/device:CUSTOM:" in name:
        return (
            "it is laid out over a mesh, as in DTensor: so far Holdfast saves only variables that each worker holds "
            "whole. Use tf.train.CheckpointManager there"
        )
    return ""
