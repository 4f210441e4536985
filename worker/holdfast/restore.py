"""Give a staged checkpoint to the live objects, by TensorFlow's own restore."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from holdfast.snapshot import replica_key
from holdfast.staging import Staged
from holdfast.values import Values, read_value
from holdfast.variables import local_components, variable_of
from holdfast_storage.errors import InvalidRequest

__all__ = ["Values", "apply"]

_log = logging.getLogger(__name__)


def apply(checkpoint: Any, per_worker: Any | None, staged: Staged) -> Any:
    """Restore two `tf.train.Checkpoint`s, `checkpoint` and what this worker keeps for itself, as `restore` does.

    Variables that are created later are restored when they are created, from `staged`, which is closed here if there
    can be none, and otherwise has to stay open. Returns TensorFlow's load status of `checkpoint` (`assert_consumed`,
    `expect_partial`, ...).

    Raises InvalidRequest, before anything has changed, if `per_worker` cannot be restored from this checkpoint.
    """
    if per_worker is not None and not staged.has_per_worker:
        raise InvalidRequest(_why_not_per_worker(staged), phase="restore", object=staged.record.prefix)
    try:
        return _applied(checkpoint, per_worker, staged)
    finally:
        staged.tidy()


def _applied(checkpoint: Any, per_worker: Any | None, staged: Staged) -> Any:
    status = checkpoint.restore(staged.prefix)
    bound = _bound(status)
    # The root sees to itself.
    states = [each for each in bound.values() if hasattr(each, "late_attacher") and each is not checkpoint]
    replicas = _Replicas(staged, status)
    replicas.assign()
    for state in states:
        on_restored(status, state.late_attacher())
    if replicas.waiting:
        on_restored(status, lambda _: replicas.assign())
    statuses = [status]
    if per_worker is not None:
        # `read`, which unlike `restore` wants no save counter: it is the main checkpoint's.
        statuses.append(per_worker.read(staged.local_prefix))
    staged.is_spent = lambda: not replicas.waiting and all(map(_is_spent, statuses))
    return status


def on_restored(status: Any, then: Callable[[Iterable[Any]], None]) -> None:
    """Have `then` called with the objects that deferred restoration has reached, each time after it has restored.

    TensorFlow offers no hook for it. Every restoration, of objects that are there and of ones that are created later,
    ends in `restore_saveables` of the object that a load status is about.
    """
    load: Any = getattr(status, "_checkpoint", None)
    if not hasattr(load, "restore_saveables"):
        return  # a name-based checkpoint of TensorFlow 1 knows no deferred restoration
    restore_saveables = load.restore_saveables
    seen = set(load.matched_proto_ids)

    def restore_and_tell(*args: Any, **kwargs: Any) -> Any:
        operations = restore_saveables(*args, **kwargs)
        new = load.matched_proto_ids - seen
        seen.update(new)  # before the call: what it attaches is restored in its turn
        then([load.object_by_proto_id[node] for node in new if node in load.object_by_proto_id])
        return operations

    load.restore_saveables = restore_and_tell


def _bound(status: Any) -> dict[int, Any]:
    """The live objects that a load has reached so far, by their node in the checkpoint's object graph."""
    return dict(getattr(getattr(status, "_checkpoint", None), "object_by_proto_id", {}))


def _is_spent(status: Any) -> bool:
    """Whether everything in the checkpoint has found its object, so that nothing is left to be read."""
    load: Any = getattr(status, "_checkpoint", None)
    try:
        waiting = load.deferred_slot_restorations or load.slot_restorations or load.unused_attributes
        return not waiting and len(load.matched_proto_ids) == len(load.object_graph_proto.nodes)
    except AttributeError:  # what a load status looks like inside is TensorFlow's own business
        return False


class _Replicas:
    """Gives each local replica of a variable the value that it had, where TensorFlow gives all of them one."""

    def __init__(self, staged: Staged, status: Any) -> None:
        self._staged = staged
        self._status = status
        self.waiting: dict[int, str] = {}  # node of the object graph -> checkpoint key
        if staged.replicas:
            graph = status._checkpoint.object_graph_proto
            for node, proto in enumerate(graph.nodes):
                for attribute in proto.attributes:
                    if attribute.checkpoint_key in staged.replicas:
                        self.waiting[node] = attribute.checkpoint_key

    def assign(self) -> None:
        """Assign to the variables that exist by now."""
        if not self.waiting:
            return
        import tensorflow as tf

        assert self._staged.local_prefix is not None
        for node, trackable in _bound(self._status).items():
            key = self.waiting.pop(node, None)
            if key is None or trackable._update_uid > self._status._checkpoint.restore_uid:
                continue  # not one of these, or it has got another value since
            components = local_components(variable_of(trackable))
            if len(components) != self._staged.replicas[key]:
                _log.info("%s: saved by %d replicas, now %d", key, self._staged.replicas[key], len(components))
                continue
            for i, component in enumerate(components):
                with tf.device(component.device):
                    component.assign(read_value(self._staged.local_prefix, replica_key(key, i), component.dtype))


def _why_not_per_worker(staged: Staged) -> str:
    what = staged.record.prefix
    if staged.record.stock:
        why = "TensorFlow wrote it, so it has none"
    elif not staged.world_matches:
        why = "it was saved by another set of workers than is here now"
    else:
        why = "it was saved without per_worker"
    return (
        f"the per_worker state cannot be restored from {what}: {why}. Restore with the workers that saved it, or with "
        "a manager made without per_worker; a manager made with it after that saves it anew, from where it is then"
    )
