"""Tasks and clusters, as TF_CONFIG names them. Pure: the standard library alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Cluster = tuple[tuple[str, tuple[str, ...]], ...]
"""Job types with their tasks' addresses, in order of job type."""

CHECKPOINTING_JOBS = ("chief", "worker", "master")
"""The job types that take part in a save, in a cluster without parameter servers. Evaluators do not."""

SERVED_JOBS = ("chief", "ps")
"""Those that do in a cluster with parameter servers. Its workers hold nothing, and come and go."""

MOST_TASKS = 100_000
"""More than any cluster has. A task's index is below."""


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
        if not type_ or not 0 <= task.index < MOST_TASKS or str(task) != text:
            raise ValueError(f"{text!r} is no task: it must be a name such as 'worker-2'")
        return task


def has_servers(cluster: Cluster) -> bool:
    """Return whether the variables of a cluster lie on parameter servers."""
    return any(job == "ps" and hosts for job, hosts in cluster)


def tasks_of(cluster: Cluster) -> tuple[Task, ...]:
    """Return the tasks that save together, the chief first."""
    return tuple(sorted(Task(job, i) for job, hosts in _saving(cluster) for i in range(len(hosts))))


def chief_of(cluster: Cluster) -> Task:
    """Return the first of the tasks that save together. Raises ValueError if there are none."""
    return min(Task(job, 0) for job, hosts in _saving(cluster) if hosts)


def _saving(cluster: Cluster) -> Cluster:
    """Return the jobs of a cluster whose tasks save together."""
    jobs = SERVED_JOBS if has_servers(cluster) else CHECKPOINTING_JOBS
    return tuple((job, hosts) for job, hosts in cluster if job in jobs)


def digest(cluster: Cluster) -> bytes:
    """Return the SHA-256 of a cluster: it says that two clusters are equal in 32 bytes, however large they are."""
    return hashlib.sha256(json.dumps(cluster).encode()).digest()


LISTED = 10
"""The number of tasks that an error lists: each worker of a large world gets it, and nobody reads 4,000 names."""


def names(tasks: Iterable[Task]) -> str:
    """Return tasks as people read them: `worker-0, worker-2`. Of many, the first ten and how many more there are."""
    return listed([str(task) for task in sorted(tasks)])


def describe(cluster: Cluster) -> str:
    """A cluster in words, for errors. Of a job with many tasks, the first ten addresses."""
    return "{" + ", ".join(f"{job}: [{listed(hosts)}]" for job, hosts in cluster) + "}"


def first_difference(ours: Cluster, theirs: Cluster) -> str:
    """Return in words where two clusters begin to differ, for errors: their descriptions may look alike."""
    mine, yours = dict(ours), dict(theirs)
    for job in sorted(mine.keys() | yours.keys()):
        a, b = mine.get(job, ()), yours.get(job, ())
        at = next((n for n, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), None)
        if at is not None:
            return f"{Task(job, at)} is {a[at]} or {b[at]}"
        if len(a) != len(b):
            return f"there are {len(a):,} or {len(b):,} tasks of job {job}"
    return "nowhere"


def listed(words: Sequence[str]) -> str:
    """Return words as people read them. Of many, the first ten and how many more there are."""
    more = f" and {len(words) - LISTED:,} more" if len(words) > LISTED else ""
    return f"{', '.join(words[:LISTED])}{more}"
