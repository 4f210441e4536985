"""The objects behind the keys of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from holdfast.tensorflow_internals import object_graph


@dataclass(frozen=True)
class Objects:
    """The objects of a checkpoint, found by following the object graph that TensorFlow wrote."""

    nodes: list[tuple[Any, dict[str, Any]]]  # each object with its children at that time
    owners: dict[str, Any]  # key -> the object whose value it is
    of_optimizers: frozenset[str]  # keys of values that belong to an optimizer
    complete: bool  # `unchanged` can see everything in it

    @classmethod
    def of(cls, checkpoint: Any, encoded_graph: memoryview | bytes) -> Objects:
        proto = object_graph(_decode_string(bytes(encoded_graph)))
        children = tf.train.TrackableView.children
        # With Checkpoint(root=...), node 0 is that object, and the other arguments are attached to it.
        top = dict(children(checkpoint))
        root = top.get("root", checkpoint)
        objects: dict[int, Any] = {0: root}
        nodes: list[tuple[Any, dict[str, Any]]] = [(checkpoint, top)]
        queue = [0]
        optimizers = []
        for node_id in queue:
            found = objects[node_id]
            kids = dict(children(found))
            nodes.append((found, kids))
            if callable(getattr(found, "apply_gradients", None)):
                optimizers.append(node_id)
            if node_id == 0:
                kids = {**top, **kids}
            for child in proto.nodes[node_id].children:
                if child.node_id not in objects and child.local_name in kids:
                    objects[child.node_id] = kids[child.local_name]
                    queue.append(child.node_id)
        owners = {
            attribute.checkpoint_key: objects[node_id]
            for node_id in queue
            for attribute in proto.nodes[node_id].attributes
        }
        slots = [slot.slot_variable_node_id for node in proto.nodes for slot in node.slot_variables]
        below = _descendants(proto, optimizers) | set(slots)
        return cls(
            nodes,
            owners,
            frozenset(attribute.checkpoint_key for node_id in below for attribute in proto.nodes[node_id].attributes),
            complete=len(objects) == len(proto.nodes) and not slots,
        )

    def unchanged(self) -> bool:
        """Whether every object still has exactly the children that it had."""
        children = tf.train.TrackableView.children
        for found, before in self.nodes:
            now = children(found)
            # By identity: variables compare by value.
            if len(now) != len(before) or any(now.get(name) is not child for name, child in before.items()):
                return False
        return True


def _decode_string(encoded: bytes) -> bytes:
    """Decode a scalar string tensor: its length as a varint, a checksum of four bytes, its bytes."""
    varint = next(n for n, byte in enumerate(encoded) if byte < 0x80) + 1
    return encoded[varint + 4 :]


def _descendants(proto: Any, roots: list[int]) -> set[int]:
    seen = set(roots)
    queue = list(roots)
    for node_id in queue:
        for child in proto.nodes[node_id].children:
            if child.node_id not in seen:
                seen.add(child.node_id)
                queue.append(child.node_id)
    return seen
