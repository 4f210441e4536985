"""The task of this process, and its cluster."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import Any

from holdfast.context import NO_PARAMETER_SERVERS
from holdfast_storage.cluster import CHECKPOINTING_JOBS, Cluster, Task, describe, tasks_of
from holdfast_storage.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class ThisTask:
    """A task and its cluster. Without a cluster, it is a world of one."""

    task: Task
    cluster: Cluster
    reader: str = ""  # the real task, such as an evaluator, if it takes no part in saves

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that save together, the chief first."""
        return tasks_of(self.cluster)

    @property
    def is_chief(self) -> bool:
        return self.task == self.tasks[0]

    @property
    def alone(self) -> bool:
        return len(self.tasks) == 1

    @property
    def chief_host(self) -> str:
        """The host of the chief's address, as the other workers reach it."""
        chief = self.tasks[0]
        return dict(self.cluster)[chief.type][chief.index].rpartition(":")[0]


ALONE = ThisTask(Task("worker", 0), (("worker", ("127.0.0.1:0",)),))


def find_this_task() -> ThisTask:
    """Return the task from TF_CONFIG, else from the cluster resolver of the current strategy scope.

    Raises InvalidRequest if TF_CONFIG is not what TensorFlow takes, or if its task is not in its cluster.
    """
    text = os.environ.get("TF_CONFIG", "").strip()
    if text:
        return parse_tf_config(text)
    import tensorflow as tf

    resolver = getattr(tf.distribute.get_strategy(), "cluster_resolver", None)
    spec = resolver.cluster_spec().as_dict() if resolver else None
    if not resolver or not spec:
        return ALONE
    return _checked(spec, resolver.task_type, resolver.task_id, "the cluster resolver")


def parse_tf_config(text: str) -> ThisTask:
    """Parse the task and the cluster of a TF_CONFIG. Raises InvalidRequest."""
    try:
        config = json.loads(text)
        cluster = config.get("cluster") or {}
        task = config.get("task") or {}
        if not cluster:
            return ALONE
        return _checked(cluster, task["type"], int(task["index"]), "TF_CONFIG")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidRequest(
            f"TF_CONFIG cannot be understood ({error!r}): it must be JSON such as "
            '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}',
            object="TF_CONFIG",
        ) from error


def _checked(cluster: dict[str, Any], job: str, index: int, source: str) -> ThisTask:
    hosts = tuple(sorted((name, tuple(addresses)) for name, addresses in cluster.items()))
    this = ThisTask(Task(job, index), hosts)
    if job != "evaluator" and dict(hosts).get("ps"):
        raise InvalidRequest(
            f"{source} has parameter servers ({describe(hosts)}, and this is {this.task}): {NO_PARAMETER_SERVERS}",
            object=source,
        )
    if this.task in this.tasks:
        return this
    # TensorFlow leaves the evaluator out of the cluster.
    if job == "evaluator" or (job in cluster and job not in CHECKPOINTING_JOBS):
        return replace(ALONE, reader=str(this.task))
    raise InvalidRequest(
        f"{source} says that this is {this.task}, which is not in its cluster {describe(this.cluster)}", object=source
    )
