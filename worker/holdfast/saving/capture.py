"""Snapshots of a `tf.train.Checkpoint`: every value under its stock key, without a copy.

The first capture goes through TensorFlow's own saver. Its public sharding callback gets every tensor of the checkpoint,
keeps them, and leaves only strings and variants to be written, to files in TensorFlow's memory, which yield their
encoding. For many small variables this costs about as much as a whole write, nearly all of it Python. So this capture
also learns which variable is behind which key. The next ones walk the objects and, as long as these are the same, read
the variables directly, which takes a tenth of the time. Whatever does not fit goes through the saver every time.

A snapshot keeps a reference to each tensor. TensorFlow sees that the buffer has a second owner, and makes the
variable's next update write to a new buffer. So the snapshot does not change, and uses up to one more state of memory
until it is dropped. A variable that has been updated sparsely, such as an embedding, is updated in place and copied at
each read, so the snapshot holds a copy from the start. It also copies what belongs to no variable, such as lookup
tables: some of these change in place what they have handed out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from holdfast.context import NO_PARAMETER_SERVERS, why_not
from holdfast.layers.architecture import architecture
from holdfast.layers.unseen import check_unseen, warn_of_unseen
from holdfast.saving.objects import Objects
from holdfast.saving.snapshot import Snapshot, SnapshotTensor
from holdfast.saving.stub import write_stub
from holdfast.trackables import is_trained, local_components, variable_of
from holdfast_storage.bundle.slices import encode_name
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.layout import OBJECT_GRAPH_KEY, replica_key


def capture(checkpoint: Any) -> Snapshot:
    """Take one snapshot of a `tf.train.Checkpoint`. For more than one, use a `Snapshotter`."""
    return Snapshotter(checkpoint).capture()


class Snapshotter:
    """Takes snapshots of one `tf.train.Checkpoint`.

    Args:
        checkpoint: the `tf.train.Checkpoint`. Its `save_counter` is not changed.
    """

    def __init__(self, checkpoint: Any) -> None:
        self._checkpoint = checkpoint
        self._direct: _DirectReads | None = None
        self._assets: tuple[Objects, Mapping[str, bytes]] | None = None  # with the objects of which they are
        self._warned = False

    def capture(self) -> Snapshot:
        """Return the values of this moment. Only one thread may call this at a time.

        If the snapshot is `collective`, all workers must call this at the same point of their programs.

        Raises InvalidRequest if the checkpoint holds what cannot be saved: variables on parameter servers, iterators
        that TensorFlow cannot save, or what a registered saver writes to files of its own; or if it leaves out a part
        of a Keras model.
        """
        if self._direct is not None:
            snapshot = self._direct.capture()
            if snapshot is not None:
                return snapshot
            self._direct = None
        return self._capture_by_saver()

    def _capture_by_saver(self) -> Snapshot:
        hook = _Hook()
        encoded = {}
        for tensor in write_stub(self._checkpoint, hook)[0]:
            if tensor.extents is not None:
                why = "is written in slices by a registered saver, which cannot be saved"
                raise InvalidRequest(f"{tensor.key} {why}", object=tensor.key)
            encoded[tensor.key] = tensor
        # Not before: who raises alone must not be missing in a collective.
        others = check_unseen(self._checkpoint)
        if not self._warned:
            self._warned = True
            warn_of_unseen(others)
        object_graph = encoded.pop(OBJECT_GRAPH_KEY)
        graph = Objects.of(self._checkpoint, object_graph.data)

        tensors, replicas, reads, collective = list(encoded.values()), [], [], False
        for key, tensor in hook.kept.items():
            owner = graph.owners.get(key)
            variable = variable_of(owner)
            guarded = key in graph.of_optimizers or is_trained(owner, tensor.dtype)
            captured = numeric(key, tensor, guarded)
            if variable is None:
                # Only variables do not touch a buffer that somebody else holds; a DenseHashTable hands out its own.
                tensors.append(replace(captured, data=bytes(captured.data)))
                continue
            tensors.append(captured)
            components = local_components(variable)
            if _is_on_read(variable):
                collective = True
                replicas += _replicas(key, components)
            else:
                read = _Read(key, guarded, owner, variable, components)
                replicas += read.differing_replicas(captured)
                reads.append((read, captured))
        if self._assets is None or not self._assets[0].unchanged():  # they cost as much as a snapshot
            self._assets = (graph, architecture(self._checkpoint))
        assets = self._assets[1]
        snapshot = _assemble(tensors, object_graph, replicas, collective, assets)
        if len(reads) == len(tensors) and graph.complete and all(read.agrees(c) for read, c in reads):
            self._direct = _DirectReads(graph, [read for read, _ in reads], object_graph, assets)
        return snapshot


class _Hook(tf.train.experimental.ShardingCallback):  # type: ignore[misc]
    """The sharding callback. It keeps every tensor, and lets TensorFlow write only those that need an encoding."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    @property
    def description(self) -> str:
        return "Keep numeric tensors in memory, write the others."

    def __call__(self, shardable_tensors: Sequence[Any]) -> list[dict[str, dict[str, Any]]]:
        written: dict[str, dict[str, Any]] = {}
        for item in shardable_tensors:
            # A Keras 3 variable gives itself, not its value.
            tensor = tf.convert_to_tensor(item.tensor) if isinstance(item.tensor, tf.Variable) else item.tensor
            if item.slice_spec or not hasattr(tensor, "numpy"):
                spread = NO_PARAMETER_SERVERS if item.slice_spec else why_not(item.device)
                reason = spread or "its value is not in this process"
                raise InvalidRequest(f"{item.checkpoint_key} cannot be saved: {reason}", object=item.checkpoint_key)
            if tensor.dtype in (tf.string, tf.variant):
                written[item.checkpoint_key] = {item.slice_spec: item.tensor}
            else:
                self.kept[item.checkpoint_key] = tensor
        # TensorFlow asks task by task, and fails only if nothing at all is written: the object graph always is.
        return [written] if written else []


@dataclass(frozen=True)
class _Read:
    """The way to read the value under one key from its variable."""

    key: str
    guarded: bool
    owner: Any  # the object of the graph, which is or holds the variable
    variable: Any
    components: tuple[Any, ...]  # the variable's local values; the first one is saved

    def unchanged(self) -> bool:
        return self.owner is self.variable or variable_of(self.owner) is self.variable

    def tensor(self) -> SnapshotTensor:
        return numeric(self.key, _read(self.components[0]), self.guarded)

    def differing_replicas(self, first: SnapshotTensor) -> list[SnapshotTensor]:
        """Return all local values if they may differ and do; otherwise nothing."""
        if self.guarded or len(self.components) == 1:
            return []
        replicas = _replicas(self.key, self.components)
        return replicas if any(not _equal(r.data, first.data) for r in replicas) else []

    def agrees(self, saved: SnapshotTensor) -> bool:
        """Return whether this reads the same value as TensorFlow's saver."""
        try:
            read = self.tensor()
        except (AttributeError, TypeError, ValueError, tf.errors.OpError):
            return False
        return (read.dtype, read.shape) == (saved.dtype, saved.shape) and _equal(read.data, saved.data)


@dataclass(frozen=True)
class _DirectReads:
    """Reads the variables of a checkpoint whose objects stay the same."""

    graph: Objects
    reads: list[_Read]
    object_graph: SnapshotTensor
    assets: Mapping[str, bytes]

    def capture(self) -> Snapshot | None:
        """Return a snapshot, or None if the objects have changed."""
        if not self.graph.unchanged() or not all(read.unchanged() for read in self.reads):
            return None
        tensors, replicas = [], []
        for read in self.reads:
            tensor = read.tensor()
            tensors.append(tensor)
            replicas += read.differing_replicas(tensor)
        return _assemble(tensors, self.object_graph, replicas, False, self.assets)


def _assemble(
    tensors: list[SnapshotTensor],
    object_graph: SnapshotTensor,
    replicas: list[SnapshotTensor],
    collective: bool,
    assets: Mapping[str, bytes],
) -> Snapshot:
    def order(tensor: SnapshotTensor) -> bytes:
        return encode_name(tensor.key)

    ordered, own = tuple(sorted(tensors, key=order)), tuple(sorted(replicas, key=order))
    return Snapshot(ordered, object_graph, own, collective, assets)


def _is_on_read(variable: Any) -> bool:
    """Return whether the saved value is an aggregate over all replicas of the world."""
    distributed = isinstance(variable, tf.distribute.DistributedValues)
    return distributed and variable.synchronization == tf.VariableSynchronization.ON_READ


def _read(variable: Any) -> Any:
    # Not `read_value()`: it runs three operations instead of one, which would be most of a capture's time.
    return tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)


def _replicas(key: str, components: tuple[Any, ...]) -> list[SnapshotTensor]:
    return [numeric(replica_key(key, index), _read(component)) for index, component in enumerate(components)]


def numeric(key: str, tensor: Any, guarded: bool = False) -> SnapshotTensor:
    return SnapshotTensor(key, tensor.dtype.as_datatype_enum, tuple(tensor.shape), _bytes_of(tensor), guarded)


def _bytes_of(tensor: Any) -> memoryview:
    """Return the bytes of a numeric tensor: its own buffer on a CPU, a copy from any other device."""
    if 0 in tensor.shape:
        return memoryview(b"")
    try:
        view = memoryview(tensor)
    except ValueError:  # a dtype that Python does not have, such as bfloat16
        view = memoryview(_as_integers(tensor))
    return view.cast("B")


def _as_integers(tensor: Any) -> Any:
    try:
        return tf.bitcast(tensor, {1: tf.uint8, 2: tf.uint16}[tensor.dtype.size])
    except (KeyError, tf.errors.OpError):  # int4 and the like, which TensorFlow stores as one byte each
        return tensor.numpy().view(np.uint8)


def _equal(a: memoryview | bytes, b: memoryview | bytes) -> bool:
    if len(a) != len(b):
        return False
    x, y = np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8)
    # The same buffer, as when a variable is read twice, need not be compared.
    return bool(x.ctypes.data == y.ctypes.data or np.array_equal(x, y))
