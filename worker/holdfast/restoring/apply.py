"""Gives a staged checkpoint to the live objects, through TensorFlow's own restore."""

from __future__ import annotations

from typing import Any

from holdfast.restoring.fit import Fit
from holdfast.restoring.graph import check_graph
from holdfast.restoring.large_tensors import Values, read_value
from holdfast.restoring.staging import Staged
from holdfast.tensorflow_internals import Load, check, has_value
from holdfast.trackables import local_components, variable_of
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.layout import replica_key
from holdfast_storage.logger import logger

__all__ = ["Values", "apply"]

_log = logger(__name__)


def apply(checkpoint: Any, per_worker: Any | None, staged: Staged) -> Any:
    """Restore two `tf.train.Checkpoint`s, `checkpoint` and `per_worker`, as TensorFlow's `restore` does.

    Variables that are created later are restored when they are created, from `staged`. It is closed here if there can
    be none, and must stay open otherwise. Returns TensorFlow's load status of `checkpoint` (`assert_consumed`,
    `expect_partial`, ...).

    Raises InvalidRequest, before anything has changed, if `per_worker` cannot be restored from this checkpoint, and
    CheckpointDamaged if an object graph leads nowhere.
    """
    check()
    if per_worker is not None and not staged.has_per_worker:
        raise InvalidRequest(_why_not_per_worker(staged), phase="restore", object=staged.record.prefix)
    try:
        for prefix in (staged.prefix, staged.local_prefix) if per_worker is not None else (staged.prefix,):
            check_graph(str(prefix), staged.record.prefix)
        return _applied(checkpoint, per_worker, staged)
    finally:
        staged.tidy()


def _applied(checkpoint: Any, per_worker: Any | None, staged: Staged) -> Any:
    status = checkpoint.restore(staged.prefix)
    load = Load.of(status)
    loads, replicas = [load], None
    if load is not None:
        staged.fits.append(Fit(load, checkpoint, staged.record.prefix))
        # The root attaches its objects itself.
        states = [each for each in load.objects.values() if hasattr(each, "late_attacher") and each is not checkpoint]
        replicas = _Replicas(staged, load)
        replicas.assign()
        for state in states:
            load.on_restored(state.late_attacher())
        if replicas.waiting:
            load.on_restored(lambda _: replicas.assign())
    if per_worker is not None:
        # `read` needs no save counter, unlike `restore`: it belongs to the main checkpoint.
        own = Load.of(per_worker.read(staged.local_prefix))
        loads.append(own)
        if own is not None:
            staged.fits.append(Fit(own, per_worker, staged.record.prefix, "per_worker"))
    staged.is_spent = lambda: not (replicas and replicas.waiting) and all(each and each.is_spent for each in loads)
    return status


class _Replicas:
    """Gives each local replica of a variable its own value, if TensorFlow gives the same one to all."""

    def __init__(self, staged: Staged, load: Load) -> None:
        self._staged = staged
        self._load = load
        self.waiting: dict[int, str] = {}  # node of the object graph -> checkpoint key
        if staged.replicas:
            for node, proto in enumerate(load.graph.nodes):
                for attribute in proto.attributes:
                    if attribute.checkpoint_key in staged.replicas:
                        self.waiting[node] = attribute.checkpoint_key

    def assign(self) -> None:
        """Assign to the variables that exist by now."""
        if not self.waiting:
            return
        import tensorflow as tf

        assert self._staged.local_prefix is not None
        for node, trackable in self._load.objects.items():
            if not has_value(trackable):
                continue
            key = self.waiting.pop(node, None)
            if key is None or self._load.has_changed(trackable):
                continue  # not one of these
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
