"""A table on parameter servers of which single rows change, saved incrementally by the chief."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from refusals import failure_of

import holdfast
from holdfast_storage.bundle.crc import crc32c

ROWS, WIDTH = 20_000, 16


class Job:
    """A table in a part for each server, and a small vector. All values are zero at first."""

    def __init__(self, directory: str, full_every: int) -> None:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        servers = len(resolver.cluster_spec().as_dict()["ps"])
        partitioner = tf.distribute.experimental.partitioners.FixedShardsPartitioner(servers)
        strategy = tf.distribute.ParameterServerStrategy(resolver, partitioner)
        with strategy.scope():
            self.table = tf.Variable(lambda: tf.zeros([ROWS, WIDTH]), name="table")
            self.vector = tf.Variable(lambda: tf.zeros([3]), name="vector")
        self.manager = holdfast.CheckpointManager(
            tf.train.Checkpoint(table=self.table, vector=self.vector),
            directory,
            max_to_keep=None,
            incremental=holdfast.Incremental(full_every=full_every),
            save_timeout=30.0,
            join_timeout=60.0,
        )

    def touch(self, rows: list[int], value: float) -> None:
        """Give these rows, and the vector, a value."""
        begin = 0
        for part in self.table.variables:
            values = part.numpy()
            values[[row - begin for row in rows if begin <= row < begin + len(values)]] = value
            part.assign(values)
            begin += len(values)
        self.vector.assign([value] * 3)


JOBS: dict[str, Job] = {}


def begin(world: Any, *, directory: str, full_every: int) -> None:
    JOBS["job"] = Job(directory, full_every)


def save(world: Any, *, rows: list[int], step: int) -> dict[str, Any] | None:
    """Change these rows, and save; how it failed, or None."""
    job = JOBS["job"]
    job.touch(rows, float(step))
    return failure_of(lambda: job.manager.save(checkpoint_number=step, blocking=True))


def restore(world: Any) -> dict[str, Any]:
    """What was restored, and what is in the variables then: the table's checksum, and the vector."""
    job = JOBS["job"]
    restored = job.manager.restore_or_initialize()
    table = b"".join(part.numpy().tobytes() for part in job.table.variables)
    return {"restored": restored, "table": crc32c(table), "vector": job.vector.numpy().tolist()}


def end(world: Any) -> dict[str, Any] | None:
    return failure_of(JOBS.pop("job").manager.close)
