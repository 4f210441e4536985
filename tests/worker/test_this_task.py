"""Where a process stands in its cluster."""

from __future__ import annotations

import json

import pytest

from holdfast.session.this_task import ALONE, parse_tf_config
from holdfast_storage.cluster import Task
from holdfast_storage.errors import InvalidRequest

CLUSTER = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "input": ["d:1"]}


def tf_config(job: str, index: int, cluster: dict[str, list[str]] | None = None) -> str:
    return json.dumps({"cluster": CLUSTER if cluster is None else cluster, "task": {"type": job, "index": index}})


def test_chief_and_workers_save_together() -> None:
    """Chief and workers save together. Guards against waiting for a task of another job, and a second worker that takes
    itself for the chief."""
    place = parse_tf_config(tf_config("worker", 1))
    assert place.tasks == (Task("chief", 0), Task("worker", 0), Task("worker", 1))
    assert (place.task, place.is_chief, place.alone, place.reader) == (Task("worker", 1), False, False, "")
    assert parse_tf_config(tf_config("chief", 0)).is_chief


@pytest.mark.parametrize("job", ["evaluator", "input"])
def test_who_has_no_part_in_saves_reads_alone(job: str) -> None:
    """Other tasks only read. Guards against an evaluator that cannot look at checkpoints, or that joins as an unknown
    worker."""
    place = parse_tf_config(tf_config(job, 0))
    assert place.reader == f"{job}-0"
    assert (place.task, place.cluster) == (ALONE.task, ALONE.cluster)


@pytest.mark.parametrize("job", ["chief", "worker", "ps"])
def test_parameter_servers_are_refused(job: str) -> None:
    """A cluster with parameter servers is refused. Guards against a chief that silently waits ten minutes for workers
    that run a `tf.distribute.Server` and never join."""
    cluster = CLUSTER | {"ps": ["e:1"]}
    with pytest.raises(InvalidRequest, match=rf"this is {job}-0\): .* not those of parameter servers"):
        parse_tf_config(tf_config(job, 0, cluster))
    assert parse_tf_config(tf_config("evaluator", 0, cluster)).reader == "evaluator-0"
    assert not parse_tf_config(tf_config("chief", 0, CLUSTER | {"ps": []})).reader


@pytest.mark.parametrize(("job", "index"), [("worker", 2), ("wroker", 0), ("chief", -1)])
def test_a_task_that_the_cluster_does_not_have(job: str, index: int) -> None:
    """A task outside of its cluster is refused. Guards against a mistyped task that trains alone beside the others."""
    with pytest.raises(InvalidRequest, match=rf"this is {job}-{index}, which is not in its cluster"):
        parse_tf_config(tf_config(job, index))


def test_no_cluster_is_a_world_of_one() -> None:
    """Without a cluster the world is one worker. Guards against what TensorFlow takes for a single process, waiting for
    others for ever."""
    assert parse_tf_config("{}") == parse_tf_config(tf_config("worker", 0, {})) == ALONE
