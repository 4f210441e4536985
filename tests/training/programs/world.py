"""A process's place in its training world: TF_CONFIG says which, or Slurm does.

Without either it is a world of its own, with two logical devices for those who want a MirroredStrategy.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

import holdfast.keras


@dataclass(frozen=True)
class World:
    """Where a scenario runs. `strategy` is None in a process of its own, and where there are parameter servers."""

    index: int
    size: int
    strategy: Any

    def scope(self) -> AbstractContextManager[Any]:
        return self.strategy.scope() if self.strategy else nullcontext()

    def run(self, step: Any, *arguments: Any) -> Any:
        """A step of all replicas; this worker's result."""
        if self.strategy is None:
            return step(*arguments)
        return self.strategy.experimental_local_results(self.strategy.run(step, arguments))[0]

    def sum(self, values: list[Any]) -> list[Any]:
        """Within a step: the sums over all replicas."""
        if self.strategy is None:
            return values
        return tf.distribute.get_replica_context().all_reduce("SUM", values)


def enter() -> World:
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(name)s %(message)s")
    # Runs are compared bit by bit.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    config = json.loads(os.environ["TF_CONFIG"])
    if "SLURM_PROCID" in os.environ:
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=int(os.environ["PORT_BASE"]), gpus_per_node=2, gpus_per_task=1, auto_set_gpu=False
        )
        strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
        return World(resolver.task_id, int(os.environ["SLURM_STEP_NUM_TASKS"]), strategy)
    if not config:
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], two)
        return World(0, 1, None)
    if "ps" in config["cluster"]:
        return World(config["task"]["index"], 1, None)
    size = len(config["cluster"]["worker"])
    library = holdfast.keras if os.environ.get("STRATEGY") == "holdfast" else tf.distribute
    return World(config["task"]["index"], size, library.MultiWorkerMirroredStrategy())
