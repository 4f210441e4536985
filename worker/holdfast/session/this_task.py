"""The task of this process, and its cluster."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from holdfast.trackables import kind_of
from holdfast_storage.cluster import CHECKPOINTING_JOBS, Cluster, Task, describe, has_servers, tasks_of
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.told import told


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
    def has_servers(self) -> bool:
        """Whether the variables of its cluster lie on parameter servers."""
        return has_servers(self.cluster)

    @property
    def alone(self) -> bool:
        return len(self.tasks) == 1

    @property
    def chief_host(self) -> str:
        """The host of the chief's address, as the other workers reach it."""
        chief = self.tasks[0]
        return dict(self.cluster)[chief.type][chief.index].rpartition(":")[0]


ALONE = ThisTask(Task("worker", 0), (("worker", ("127.0.0.1:0",)),))


def find_this_task(resolver: Any = None, *checkpoints: Any) -> ThisTask:
    """Return the task of this process, from whatever names its cluster; ALONE if nothing does.

    TF_CONFIG may name it, a cluster resolver that the program gives, the one of the strategy in scope, and those of the
    strategies of the checkpoints' variables.

    Raises InvalidRequest if two of them disagree, if one is not what TensorFlow takes, or if one names a task that is
    not in its cluster.
    """
    strategies = _strategies(checkpoints)
    said = [(source, this) for source, this in _sources(resolver, strategies) if this]
    for source, this in said[1:]:
        first, other = said[0]
        if this != other:
            raise InvalidRequest(
                f"{first} says that this is {_in_words(other)}, and {source} that it is {_in_words(this)}. Correct the "
                "one that is wrong, or remove it",
                object=source,
            )
    if said:
        return said[0][1]
    for strategy in strategies:
        elsewhere = strategy.num_replicas_in_sync - len(strategy.extended.worker_devices)
        if elsewhere > 0:
            raise InvalidRequest(
                f"{kind_of(strategy)} has {elsewhere} of its {strategy.num_replicas_in_sync} replicas in other "
                "processes, and nothing names its cluster any more: leave TF_CONFIG in the environment until the "
                "CheckpointManager is made, or pass cluster_resolver",
                object="cluster_resolver",
            )
    return ALONE


def _sources(resolver: Any, strategies: Iterable[Any]) -> Iterator[tuple[str, ThisTask | None]]:
    yield "TF_CONFIG", parse_tf_config(os.environ.get("TF_CONFIG", ""))
    if resolver is not None:
        yield from _by_resolver(resolver, "the argument cluster_resolver")
    for strategy in strategies:
        if strategy.cluster_resolver is not None:
            yield from _by_resolver(strategy.cluster_resolver, f"the cluster resolver of {kind_of(strategy)}")


def _strategies(checkpoints: Iterable[Any]) -> list[Any]:
    """Return the strategy in scope, and those of the variables of the checkpoints, each once."""
    tf = sys.modules.get("tensorflow")
    if tf is None:
        return []
    from holdfast.tensorflow_internals import strategies_of

    found = [tf.distribute.get_strategy()] if tf.distribute.has_strategy() else []
    for checkpoint in checkpoints:
        if isinstance(checkpoint, tf.train.Checkpoint):
            found.extend(strategies_of(checkpoint))
    return list({id(strategy): strategy for strategy in found}.values())


def _by_resolver(resolver: Any, source: str) -> Iterator[tuple[str, ThisTask]]:
    """Yield what a `tf.distribute.cluster_resolver.ClusterResolver` says, unless it names no cluster of workers."""
    kind = type(resolver).__name__
    if kind == "TPUClusterResolver":
        return  # it names hosts of devices, all of which one process uses
    source = f"{source} ({kind})"
    try:
        spec = resolver.cluster_spec()  # first: some know their task only then
        cluster = _cluster(spec.as_dict() if spec else {})
        job, index = resolver.task_type, resolver.task_id
    except Exception as error:
        raise InvalidRequest(f"{source} does not say what its cluster is: {told(error)}", object=source) from error
    if cluster and (job is None or index is None):
        raise InvalidRequest(
            f"{source} does not say which task of {describe(cluster)} this is: set its task_type and task_id",
            object=source,
        )
    if cluster:
        yield source, _checked(cluster, job, index, source)


def parse_tf_config(text: str) -> ThisTask | None:
    """Return the task and the cluster of a TF_CONFIG; None if it names no cluster. Raises InvalidRequest."""
    try:
        config = json.loads(text) if text.strip() else {}
        cluster = _cluster(config.get("cluster") or {})
        task = config.get("task") or {}
        return _checked(cluster, task["type"], int(task["index"]), "TF_CONFIG") if cluster else None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InvalidRequest(
            f"TF_CONFIG cannot be understood ({error!r}): it must be JSON such as "
            '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}',
            object="TF_CONFIG",
        ) from error


def _cluster(jobs: Mapping[str, Any]) -> Cluster:
    """Return a cluster from what `tf.train.ClusterSpec` takes: for each job, a list or a mapping from indices."""
    return tuple(sorted((job, _addresses(job, given)) for job, given in jobs.items()))


def _addresses(job: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, Mapping):
        by_index = {int(index): address for index, address in given.items()}
        given = [by_index.get(index) for index in range(len(by_index))]
    if isinstance(given, str) or not all(isinstance(address, str) for address in given):
        raise ValueError(f"the addresses of job {job} must be a list of texts, one for each task, not {given!r}")
    return tuple(given)


def _checked(cluster: Cluster, job: str, index: int, source: str) -> ThisTask:
    this, jobs = ThisTask(Task(job, index), cluster), dict(cluster)
    if this.has_servers and job != "evaluator":
        _check_served(this, source)
    if this.task in this.tasks:
        return this
    # TensorFlow leaves the evaluator out of the cluster. Workers of parameter servers hold nothing.
    if job == "evaluator" or (job in jobs and (this.has_servers or job not in CHECKPOINTING_JOBS)):
        return replace(ALONE, reader=str(this.task))
    raise InvalidRequest(
        f"{source} says that this is {this.task}, which is not in its cluster {describe(cluster)}", object=source
    )


def _check_served(this: ThisTask, source: str) -> None:
    """Raise InvalidRequest for a cluster with parameter servers, or a task of it, that cannot have a manager."""
    if not dict(this.cluster).get("chief"):
        why = "no chief: name the task that runs the training program as `chief`"
    elif this.task.type == "ps":
        why = (
            f"this is {this.task}, which has no CheckpointManager: call holdfast.serve_parameter_server() here, in "
            "place of tf.distribute.Server(...).join()"
        )
    else:
        return
    raise InvalidRequest(f"{source} has parameter servers ({describe(this.cluster)}), and {why}", object=source)


def _in_words(this: ThisTask) -> str:
    return f"{this.reader}, which only reads" if this.reader else f"{this.task} of {describe(this.cluster)}"
