"""A job under parameter servers whose values follow from its steps."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import tensorflow as tf
from refusals import failure_of

import holdfast

ROWS, WIDTH = 4096, 64
OPTIONS = {"save_timeout": 30.0, "join_timeout": 60.0}


class Job:
    """A table in two parts, a vector on one server, the count of steps. Each step adds one to everything."""

    def __init__(self, directory: str, **options: Any) -> None:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        servers = len(resolver.cluster_spec().as_dict()["ps"])
        partitioner = tf.distribute.experimental.partitioners.MinSizePartitioner(64 << 10, servers)
        self.strategy = tf.distribute.ParameterServerStrategy(resolver, partitioner)
        self.coordinator = tf.distribute.coordinator.ClusterCoordinator(self.strategy)
        with self.strategy.scope():
            self.table = tf.Variable(lambda: tf.zeros([ROWS, WIDTH]), name="table")
            self.vector = tf.Variable(lambda: tf.zeros([3], tf.float64), name="vector")
            self.steps = tf.Variable(0, dtype=tf.int64, name="steps")
        state = tf.train.Checkpoint(table=self.table, vector=self.vector, steps=self.steps)
        self.manager = holdfast.CheckpointManager(state, directory, **{**OPTIONS, **options})

        @tf.function
        def step() -> Any:
            for part in self.table.variables:
                part.assign_add(tf.ones(part.shape))
            self.vector.assign_add(tf.ones([3], tf.float64))
            return self.steps.assign_add(1, read_value=True)

        self._step = step

    def train(self, steps: int) -> int:
        """The number of steps done so far, as the servers have it. What TensorFlow raises if it cannot."""
        for _ in range(steps):
            self.coordinator.schedule(self._step)
        self.coordinator.join()
        return int(self.steps.numpy())

    def values(self) -> set[float]:
        """All different values of all variables: one, the number of steps, if none is torn or lost."""
        parts = [*self.table.variables, self.vector, self.steps]
        return {float(value) for part in parts for value in np.unique(part.numpy())}

    def restore(self) -> dict[str, Any]:
        """What was restored, how long it took and what the values are then; or how it failed."""
        begun = time.monotonic()
        restored: list[Any] = []
        failure = failure_of(lambda: restored.append(self.manager.restore_or_initialize()))
        if failure:
            return {"failure": failure}
        return {"restored": restored[0], "seconds": time.monotonic() - begun, "values": sorted(self.values())}


JOBS: dict[str, Job] = {}


def begin(world: Any, *, directory: str, **options: Any) -> dict[str, Any]:
    """Start a job, and restore."""
    job = JOBS["job"] = Job(directory, **options)
    return job.restore()


def train(world: Any, *, steps: int = 1) -> dict[str, Any]:
    """Steps done, or what TensorFlow raised."""
    begun = time.monotonic()
    try:
        return {"steps": JOBS["job"].train(steps)}
    except tf.errors.OpError as error:
        return {"raised": type(error).__name__, "seconds": time.monotonic() - begun}


def save(world: Any, *, step: int, blocking: bool = True) -> dict[str, Any] | None:
    """Save; how it failed, or None."""
    return failure_of(lambda: JOBS["job"].manager.save(checkpoint_number=step, blocking=blocking))


def wait(world: Any) -> dict[str, Any] | None:
    """Wait for the save in flight; how it failed, or None."""
    return failure_of(JOBS["job"].manager.wait)


def values(world: Any) -> list[float]:
    return sorted(JOBS["job"].values())


def end(world: Any) -> dict[str, Any] | None:
    return failure_of(JOBS.pop("job").manager.close)


def endure(world: Any, *, directory: str, diary: str, saves: int, **options: Any) -> dict[str, Any]:
    """Restore, and save after each step, until so many are done. How it ended: `steps`, or what TensorFlow `raised`.

    What is done is noted in a file as well, a line of JSON each, for who kills this process.
    """
    with open(diary, "a", buffering=1) as file:

        def note(**what: Any) -> None:
            file.write(json.dumps(what) + "\n")

        job = Job(directory, **options)
        note(**job.restore())
        steps = int(job.steps.numpy())
        try:
            while steps < saves:
                steps = job.train(1)
                note(saving=steps)
                failure = failure_of(lambda step=steps: job.manager.save(checkpoint_number=step))
                if failure:
                    note(failed=failure["message"])
            failure = failure_of(job.manager.close)
            if failure:
                note(failed=failure["message"])
        except tf.errors.OpError as error:
            return {"raised": type(error).__name__}
        return {"steps": steps}
