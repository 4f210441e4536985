"""A restore of TensorFlow's from inside: what of a checkpoint has found which object, and what is still to come.

TensorFlow shows little of it. All that we know of its load status beyond what it is documented to do is here.

It is also mended for variables of Keras 3 that are made after a restore. Keras builds a model that has no `build` of
its own by calling it with symbols first. The variables made there get their values when that is over; TensorFlow, which
sees them being attached to their layer, restores at once, fails, and has given the value away. Keras takes the failure
for one of the model's, and goes on with a variable that was never restored. Here such a variable is restored as soon as
it is initialized. And where Keras computes in another precision than that of its variables, these show themselves to
TensorFlow as they are: what they show otherwise is a copy in that precision, which cannot be restored.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import tensorflow as tf
from tensorflow.python.checkpoint.restore import CheckpointPosition
from tensorflow.python.training.saving.saveable_object_util import saveable_objects_from_trackable

from holdfast.trackables import can_be_trained

_log = logging.getLogger("holdfast")


class Load:
    """What a load status is about. None of it keeps an object alive."""

    def __init__(self, status: Any) -> None:
        self._load = status._checkpoint

    @classmethod
    def of(cls, status: Any) -> Load | None:
        """None where there is nothing to be known: nothing was restored, or a name-based checkpoint of TensorFlow 1."""
        return cls(status) if hasattr(getattr(status, "_checkpoint", None), "restore_saveables") else None

    @property
    def graph(self) -> Any:
        """The checkpoint's object graph. A node is an index into its nodes."""
        return self._load.object_graph_proto

    @property
    def objects(self) -> dict[int, Any]:
        """The live objects that have been reached so far, by their node."""
        return dict(self._load.object_by_proto_id)

    @property
    def is_spent(self) -> bool:
        """Whether everything in the checkpoint has found its object, so that nothing is left to be read."""
        load = self._load
        waiting = load.deferred_slot_restorations or load.slot_restorations or load.unused_attributes
        return not waiting and len(load.matched_proto_ids) == len(self.graph.nodes)

    @property
    def left_over(self) -> list[str]:
        """The keys of values that have found no object so far."""
        load = self._load
        return [
            attribute.checkpoint_key
            for node, proto in enumerate(self.graph.nodes)
            for attribute in proto.attributes
            if node not in load.matched_proto_ids or attribute.name in load.unused_attributes.get(node, ())
        ]

    @property
    def failures(self) -> list[str]:
        """What could not be restored when it came, by name, and why."""
        return list(_failures.get(self._load, ()))

    @property
    def expects_partial(self) -> bool:
        """Whether the program has said that what is left over is meant to be."""
        return bool(self._load.expect_partial)

    def may_be_trained(self, key: str) -> bool:
        """Whether the value could be a weight."""
        dtype = self._load.dtype_map.get(key)  # which leaves out what is no tensor of numbers or texts
        return dtype is not None and can_be_trained(dtype)

    def is_waited_for_at(self, trackable: Any) -> bool:
        """Whether values of this checkpoint wait for children that an object does not have yet."""
        waiting = getattr(trackable, "_deferred_dependencies", {})
        return any(each.checkpoint is self._load for positions in waiting.values() for each in positions)

    def has_reached(self, trackable: Any) -> bool:
        """Whether an object has got its value from here, or another one since."""
        return bool(getattr(trackable, "_update_uid", -1) >= self._load.restore_uid)

    def has_changed(self, trackable: Any) -> bool:
        """Whether an object that was reached has got another value since."""
        return bool(trackable._update_uid > self._load.restore_uid)

    def on_restored(self, then: Callable[[Iterable[Any]], None]) -> None:
        """Have `then` called with the objects that were reached, each time after some have been restored.

        TensorFlow offers no hook for it. Every restoration, of objects that are there and of ones that are created
        later, ends in `restore_saveables` of the object that a load status is about.
        """
        load = self._load
        restore_saveables = load.restore_saveables
        seen = set(load.matched_proto_ids)

        def restore_and_tell(*args: Any, **kwargs: Any) -> Any:
            operations = restore_saveables(*args, **kwargs)
            new = load.matched_proto_ids - seen
            seen.update(new)  # before the call: what it attaches is restored in its turn
            then([load.object_by_proto_id[node] for node in new if node in load.object_by_proto_id])
            return operations

        load.restore_saveables = restore_and_tell


def has_value(trackable: Any) -> bool:
    """Whether it is no variable of Keras 3 that is still to be initialized."""
    return getattr(trackable, "_value", trackable) is not None or not hasattr(trackable, "_deferred_initialize")


def has_values(trackable: Any) -> bool:
    """Whether an object has values of its own in a checkpoint."""
    return bool(saveable_objects_from_trackable(trackable))


_restore = CheckpointPosition._single_restore


def _restore_with_value(position: Any) -> Any:
    """Stands for `CheckpointPosition._single_restore`."""
    trackable = position.trackable
    if has_value(trackable):
        return _restore(position)
    trackable._maybe_initialize_trackable()
    initialize = trackable._deferred_initialize

    def initialize_and_restore() -> None:
        initialize()
        vars(trackable).pop("_deferred_initialize", None)
        try:
            with tf.init_scope():
                position._restore_descendants()
        except BaseException as error:
            failure = f"{trackable.path}: {str(error) or repr(error)}"
            _failures.setdefault(position.checkpoint, []).append(failure)
            _log.error("could not be restored: %s", failure)
            # Keras would take it for an error of the model, and leave the variables that come after without values.
            if not isinstance(error, Exception):
                raise

    trackable._deferred_initialize = initialize_and_restore
    return (), {}, (), {}


_restore_from_here = CheckpointPosition._restore_descendants


def _restore_uncast(position: Any, reader: Any = None) -> Any:
    """Stands for `CheckpointPosition._restore_descendants`."""
    scope = getattr(sys.modules.get("keras.src.backend"), "AutocastScope", None)
    with scope(None) if scope else nullcontext():
        return _restore_from_here(position, reader)


CheckpointPosition._single_restore = _restore_with_value
CheckpointPosition._restore_descendants = _restore_uncast
_failures: WeakKeyDictionary[Any, list[str]] = WeakKeyDictionary()
