"""What lies where: which task holds which part of a checkpoint.

TensorFlow's own saver tells it, once, as long as the objects of the checkpoint stay the same: its sharding callback is
asked for every value, with its key, its place in the tensor and its device, while TensorFlow traces what reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from holdfast.context import why_not
from holdfast.layers.architecture import architecture
from holdfast.layers.unseen import check_unseen
from holdfast.saving.capture import numeric
from holdfast.saving.objects import Objects
from holdfast.saving.plan import Extents, Spec
from holdfast.saving.shares import Share
from holdfast.saving.snapshot import SnapshotTensor
from holdfast.saving.stub import encoded, write_stub
from holdfast.tensorflow_internals import tensors_of
from holdfast_protos.v1.bundle_pb2 import BundleEntry
from holdfast_storage.bundle.slices import encode_name, parse_spec
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.layout import OBJECT_GRAPH_KEY

CHIEF = "/job:chief/replica:0/task:0/device:CPU:0"


@dataclass(frozen=True, slots=True)
class Held:
    """A variable, or a part of one, that a server holds."""

    key: str
    dtype: Any  # a tf.DType
    shape: tuple[int, ...]  # of what is held
    whole: tuple[int, ...]  # of the tensor
    extents: Extents | None  # which part of the tensor it is; None: all of it
    handle: Any

    @property
    def place(self) -> tuple[str, Extents | None, int]:
        """What tells it from all others, as long as the handle lives."""
        return self.key, self.extents, id(self.handle)

    @property
    def share(self) -> Share:
        size = self.dtype.size * tf.TensorShape(self.shape).num_elements()
        return Share(Spec(self.key, self.dtype.as_datatype_enum, self.shape, size), self.extents)

    def read(self) -> Any:
        """Return the value, in a graph. A variable that is updated sparsely is copied by its next update, not here."""
        tf.raw_ops.DisableCopyOnRead(resource=self.handle)
        return tf.raw_ops.ReadVariableOp(resource=self.handle, dtype=self.dtype)


@dataclass(frozen=True, slots=True)
class _Own:
    """A variable of the chief."""

    key: str
    dtype: Any
    handle: Any

    def read(self) -> SnapshotTensor:
        with tf.device(self.handle.device):
            return numeric(self.key, tf.raw_ops.ReadVariableOp(resource=self.handle, dtype=self.dtype))


@dataclass(frozen=True, slots=True)
class _Other:
    """An object of the chief that is no variable of numbers, such as a lookup table."""

    found: Any
    keys: dict[str, str]  # by the names that it gives its tensors

    def read(self) -> dict[str, Any]:
        tensors = tensors_of(self.found)
        return {key: tensors[name] for name, key in self.keys.items()}


@dataclass(frozen=True)
class Table:
    """All values of a checkpoint, by the task that holds them."""

    servers: tuple[tuple[Held, ...], ...]  # by server
    object_graph: SnapshotTensor
    assets: Mapping[str, bytes]  # as in `Snapshot`
    headers: tuple[tuple[bytes, BundleEntry], ...]  # of what the chief writes in slices: strings that lie in parts
    written: tuple[SnapshotTensor, ...]  # the chief's values, as TensorFlow has written them when this was learnt
    _own: tuple[_Own, ...]
    _others: tuple[_Other, ...] | None  # None: they can only be had by learning all of this again
    _objects: Objects

    @property
    def lasts(self) -> bool:
        """Whether this is still what lies where, and the chief's values can be read."""
        return self._others is not None and self._objects.complete and self._objects.unchanged()

    def of_chief(self) -> list[SnapshotTensor]:
        """Return what the chief holds: tensors of numbers first."""
        if self._others is None:
            own = list(self.written)
        else:
            with tf.device(CHIEF):
                others = encoded({key: value for each in self._others for key, value in each.read().items()})
            own = [*(each.read() for each in self._own), *others]
        return sorted(own, key=lambda each: (each.encoded, encode_name(each.key), each.extents or ()))


def learn(checkpoint: Any, servers: int) -> Table:
    """Have TensorFlow tell what lies where. Takes some milliseconds a variable.

    Raises InvalidRequest for what cannot be saved, by name, before anything is written.
    """
    hook = _Hook(servers)
    # On the chief: otherwise TensorFlow has a server write the strings, and join the parts.
    written, headers = write_stub(checkpoint, hook, device=CHIEF)
    check_unseen(checkpoint)
    object_graph = next(each for each in written if each.key == OBJECT_GRAPH_KEY)
    written.remove(object_graph)
    objects = Objects.of(checkpoint, object_graph.data)
    held = tuple(tuple(sorted(each, key=lambda h: (encode_name(h.key), h.extents or ()))) for each in hook.servers)
    others = None if headers else _others(objects, {each.key for each in written} - {each.key for each in hook.own})
    assets = architecture(checkpoint)
    return Table(held, object_graph, assets, tuple(headers), tuple(written), tuple(hook.own), others, objects)


def _others(objects: Objects, keys: set[str]) -> tuple[_Other, ...] | None:
    """Return the objects whose values have these keys; None if it cannot be told how to read them."""
    found, left = [], set(keys)
    for attribute, owner in objects.owners.items():
        # What has several values, such as a table, has keys that begin with the one in the object graph.
        if not any(key.startswith(attribute) for key in left):
            continue
        try:
            names = tensors_of(owner)
        except (AttributeError, NotImplementedError):  # such as what a saver writes that a user has registered
            return None
        base = attribute.rpartition("/")[0]
        named = {name: key for name in names for key in (f"{attribute}{name}", f"{base}/{name}") if key in left}
        left -= set(named.values())
        found.append(_Other(owner, named))
    return None if left else tuple(found)


class _Hook(tf.train.experimental.ShardingCallback):  # type: ignore[misc]
    """The sharding callback. It notes what lies on servers, and lets TensorFlow write the rest."""

    def __init__(self, servers: int) -> None:
        self.servers: list[list[Held]] = [[] for _ in range(servers)]
        self.own: list[_Own] = []

    @property
    def description(self) -> str:
        return "Note what lies on parameter servers, write the rest."

    def __call__(self, shardable_tensors: Sequence[Any]) -> list[dict[str, dict[str, Any]]]:
        written: dict[str, dict[str, Any]] = {}
        for item in shardable_tensors:
            key, device = item.checkpoint_key, tf.DeviceSpec.from_string(str(_name(item.device)))
            reason = why_not(item.device, served=True)
            if reason:
                raise InvalidRequest(f"{key} cannot be saved: {reason}", object=key)
            handle = _handle_of(item.tensor)
            # What may change its shape is read as other objects are: what a server holds is planned once.
            has_shape = tf.TensorShape(item.shape).is_fully_defined()
            is_variable = handle is not None and has_shape and item.dtype not in (tf.string, tf.variant)
            if is_variable and device.job == "ps":
                part = parse_spec(item.slice_spec)
                shape = tuple(item.shape)
                whole, extents = part or (shape, None)
                here = shape if extents is None else tuple(length for _, length in extents)
                self.servers[device.task].append(Held(key, item.dtype, here, whole, extents, handle))
                continue
            written.setdefault(key, {})[item.slice_spec] = item.tensor
            if is_variable and not item.slice_spec:
                self.own.append(_Own(key, item.dtype, handle))
        return [written] if written else []


def _name(device: Any) -> str:
    return device.to_string() if hasattr(device, "to_string") else str(device)


def _handle_of(tensor: Any) -> Any:
    """Return the resource of the variable from which a value is read; None if it is no plain value of a variable."""
    if isinstance(tensor, tf.Variable):  # Keras 3 gives the variable itself
        return tensor.handle
    if hasattr(tensor, "numpy"):
        return None
    operation = tensor.op
    while operation.type == "Identity":
        operation = operation.inputs[0].op
    if operation.type != "ReadVariableOp":
        return None
    resource = operation.inputs[0]
    return next((outer for outer, inner in resource.graph.captures if inner is resource), None)
