"""Tasks and clusters, as TF_CONFIG names them. Pure: the standard library alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Cluster = tuple[tuple[str, tuple[str, ...]], ...]
"""Job types with their tasks' addresses, in order of job type."""

CHECKPOINTING_JOBS = ("chief", "worker", "master")
"""The job types that take part in a save. Parameter servers and evaluators do not."""


@dataclass(frozen=True, slots=True, order=True)
class Task:
    """A task of the cluster, as in TF_CONFIG. On storage, on the wire and in errors it is text, such as `worker-2`."""

    type: str
    index: int

    def __str__(self) -> str:
        return f"{self.type}-{self.index}"

    @classmethod
    def parse(cls, text: str) -> Task:
        """The task of that name. Raises ValueError if it is none."""
        type_, _, index = text.rpartition("-")
        task = cls(type_, int(index))
        if not type_ or task.index < 0 or str(task) != text:
            raise ValueError(f"{text!r} is no task: it must be a name such as 'worker-2'")
        return task


def tasks_of(cluster: Cluster) -> tuple[Task, ...]:
    """Return the tasks that save together, the chief first."""
    return tuple(sorted(Task(job, i) for job, hosts in cluster if job in CHECKPOINTING_JOBS for i in range(len(hosts))))


def names(tasks: Iterable[Task]) -> str:
    """Return tasks as people read them: `worker-0, worker-2`."""
    return ", ".join(str(task) for task in sorted(tasks))


def describe(cluster: Cluster) -> str:
    """A cluster in words, for errors."""
    return "{" + ", ".join(f"{job}: [{', '.join(hosts)}]" for job, hosts in cluster) + "}"
