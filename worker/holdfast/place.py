"""Where this process stands in its cluster."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import Any

from holdfast.context import NO_PARAMETER_SERVERS
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.records import Task

Cluster = tuple[tuple[str, tuple[str, ...]], ...]

CHECKPOINTING_JOBS = ("chief", "worker", "master")


@dataclass(frozen=True, slots=True)
class Place:
    """A task and its cluster. Without a cluster: a world of one."""

    task: Task
    cluster: Cluster
    reader: str = ""  # the task that this really is, such as an evaluator, if it has no part in saves

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Those that save together, chief first."""
        jobs = dict(self.cluster)
        return tuple(sorted(Task(j, i) for j in jobs if j in CHECKPOINTING_JOBS for i in range(len(jobs[j]))))

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


def describe(cluster: Cluster) -> str:
    """A cluster in words, for errors."""
    return "{" + ", ".join(f"{job}: [{', '.join(hosts)}]" for job, hosts in cluster) + "}"


ALONE = Place(Task("worker", 0), (("worker", ("127.0.0.1:0",)),))


def find_place() -> Place:
    """From TF_CONFIG, else from the cluster resolver of the strategy in whose scope this is called.

    Raises InvalidRequest if TF_CONFIG is not what TensorFlow takes, or does not have the task that it names.
    """
    text = os.environ.get("TF_CONFIG", "").strip()
    if text:
        return parse_tf_config(text)
    import tensorflow as tf

    resolver = getattr(tf.distribute.get_strategy(), "cluster_resolver", None)
    spec = resolver.cluster_spec().as_dict() if resolver else None
    if not resolver or not spec:
        return ALONE
    return _place(spec, resolver.task_type, resolver.task_id, "the cluster resolver")


def parse_tf_config(text: str) -> Place:
    """The place that a TF_CONFIG names. Raises InvalidRequest."""
    try:
        config = json.loads(text)
        cluster = config.get("cluster") or {}
        task = config.get("task") or {}
        if not cluster:
            return ALONE
        return _place(cluster, task["type"], int(task["index"]), "TF_CONFIG")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidRequest(
            f"TF_CONFIG cannot be understood ({error!r}): it must be JSON such as "
            '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}',
            object="TF_CONFIG",
        ) from error


def _place(cluster: dict[str, Any], job: str, index: int, source: str) -> Place:
    hosts = tuple(sorted((name, tuple(addresses)) for name, addresses in cluster.items()))
    place = Place(Task(job, index), hosts)
    if job != "evaluator" and dict(hosts).get("ps"):
        raise InvalidRequest(
            f"{source} has parameter servers ({describe(hosts)}, and this is {place.task}): {NO_PARAMETER_SERVERS}",
            object=source,
        )
    if place.task in place.tasks:
        return place
    # TensorFlow leaves the evaluator out of the cluster.
    if job == "evaluator" or (job in cluster and job not in CHECKPOINTING_JOBS):
        return replace(ALONE, reader=str(place.task))
    raise InvalidRequest(
        f"{source} says that this is {place.task}, which is not in its cluster {describe(place.cluster)}", object=source
    )
