"""The object graph of a checkpoint, looked at before TensorFlow follows it."""

from __future__ import annotations

import tensorflow as tf

from holdfast.restoring.large_tensors import read_value
from holdfast.tensorflow_internals import object_graph
from holdfast_storage.errors import CheckpointDamaged
from holdfast_storage.layout import OBJECT_GRAPH_KEY


def check_graph(prefix: str, checkpoint: str) -> None:
    """Check that the graph of a staged bundle is one, and that it leads only to its own nodes.

    A bundle without a graph passes. Raises CheckpointDamaged, which names `checkpoint`.
    """
    try:
        serialized = read_value(prefix, OBJECT_GRAPH_KEY, tf.string).numpy()
    except tf.errors.NotFoundError:
        return
    try:
        nodes = object_graph(serialized).nodes
    except Exception as error:  # protobuf's own, of which every implementation has another one
        raise CheckpointDamaged(f"{checkpoint}: its object graph cannot be read: {error}", object=checkpoint) from error
    led = {0, *(child.node_id for node in nodes for child in node.children)}
    for slot in (slot for node in nodes for slot in node.slot_variables):
        led |= {slot.original_variable_node_id, slot.slot_variable_node_id}
    if min(led) < 0 or max(led) >= len(nodes):
        told = f"its object graph leads to nodes {min(led)} to {max(led)}, and has {len(nodes)}"
        raise CheckpointDamaged(f"{checkpoint}: {told}", object=checkpoint)
