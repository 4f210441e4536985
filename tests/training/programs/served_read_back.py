"""What a chief reads of a new checkpoint before what it replaces is removed."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

import holdfast
from holdfast_storage.store.posix import PosixStore

SHAPE = (1 << 17, 64)  # 32 MiB


def chief_reads(world: Any, *, directory: str) -> dict[str, Any]:
    """The bytes of tensors that the chief's process reads during three saves, of which one is kept."""
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    servers = len(resolver.cluster_spec().as_dict()["ps"])
    partitioner = tf.distribute.experimental.partitioners.FixedShardsPartitioner(servers)
    strategy = tf.distribute.ParameterServerStrategy(resolver, partitioner)
    with strategy.scope():
        table = tf.Variable(lambda: tf.ones(SHAPE), name="table")
    read = 0
    read_into = PosixStore.read_into

    def counting(self: PosixStore, name: str, offset: int, buffer: memoryview) -> int:
        nonlocal read
        count = read_into(self, name, offset, buffer)
        read += count if ".data-" in name else 0
        return count

    PosixStore.read_into = counting  # type: ignore[method-assign]
    try:
        manager = holdfast.CheckpointManager(tf.train.Checkpoint(table=table), directory, max_to_keep=1)
        for _ in range(3):
            manager.save()
        manager.wait()
        left = len(manager.checkpoints)
        manager.close()
    finally:
        PosixStore.read_into = read_into  # type: ignore[method-assign]
    return {"read": read, "size": 3 * 4 * SHAPE[0] * SHAPE[1], "left": left}
