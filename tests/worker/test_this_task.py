"""Where a process stands in its cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import holdfast.session.this_task
from holdfast.session.this_task import ALONE, ThisTask, find_this_task
from holdfast.session.this_task import parse_tf_config as parse
from holdfast_storage.cluster import Task
from holdfast_storage.errors import InvalidRequest

CLUSTER = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "input": ["d:1"]}


def tf_config(job: str, index: int, cluster: dict[str, list[str]] | None = None) -> str:
    return json.dumps({"cluster": CLUSTER if cluster is None else cluster, "task": {"type": job, "index": index}})


def parse_tf_config(text: str) -> ThisTask:
    this = parse(text)
    assert this is not None
    return this


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


SERVED = CLUSTER | {"ps": ["e:1", "f:1"]}


def test_chief_and_parameter_servers_save_together() -> None:
    """With parameter servers, these and the chief save, and all others read. Guards against a chief that silently
    waits ten minutes for workers that run a `tf.distribute.Server` and never join."""
    chief = parse_tf_config(tf_config("chief", 0, SERVED))
    assert chief.tasks == (Task("chief", 0), Task("ps", 0), Task("ps", 1))
    assert (chief.is_chief, chief.has_servers, chief.reader) == (True, True, "")
    for job in ("worker", "input", "evaluator"):
        assert parse_tf_config(tf_config(job, 0, SERVED)).reader == f"{job}-0"
    assert not parse_tf_config(tf_config("worker", 0, CLUSTER | {"ps": []})).reader


def test_who_has_no_manager_with_parameter_servers() -> None:
    """A server's manager, and a cluster without a chief, are refused. Guards against a server that joins as a second
    program's worker, and servers that take the first of them for the chief."""
    with pytest.raises(InvalidRequest, match=r"this is ps-1, which has no CheckpointManager: call .*serve_parameter"):
        parse_tf_config(tf_config("ps", 1, SERVED))
    for job in ("worker", "ps"):
        with pytest.raises(InvalidRequest, match=r"and no chief: name the task that runs the training program"):
            parse_tf_config(tf_config(job, 0, {"worker": ["c:1"], "ps": ["e:1"]}))


@pytest.mark.parametrize(("job", "index"), [("worker", 2), ("wroker", 0), ("chief", -1)])
def test_a_task_that_the_cluster_does_not_have(job: str, index: int) -> None:
    """A task outside of its cluster is refused. Guards against a mistyped task that trains alone beside the others."""
    with pytest.raises(InvalidRequest, match=rf"this is {job}-{index}, which is not in its cluster"):
        parse_tf_config(tf_config(job, index))


@pytest.mark.parametrize("text", ["", " ", "{}", tf_config("worker", 0, {}), '{"task": {"type": "worker"}}'])
def test_no_cluster_is_a_world_of_one(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Without a cluster the world is one worker. Guards against what TensorFlow takes for a single process, waiting for
    others for ever."""
    assert parse(text) is None
    monkeypatch.setenv("TF_CONFIG", text)
    assert find_this_task() == ALONE


@pytest.mark.parametrize("workers", ["b:1", [1, 2], {"0": "b:1", "2": "c:1"}, {"one": "b:1"}, 7])
def test_addresses_that_are_none(workers: Any) -> None:
    """A job's addresses are texts, one for each task. Guards against the letters of one address, or the indices of a
    mapping, that are taken for a cluster."""
    with pytest.raises(InvalidRequest, match="TF_CONFIG cannot be understood"):
        parse(tf_config("worker", 0, {"worker": workers}))
    with pytest.raises(InvalidRequest, match=r"cluster_resolver \(SimpleNamespace\) does not say what its cluster is"):
        find_this_task(resolver("worker", 0, {"worker": workers}))


def test_addresses_by_their_index() -> None:
    """A job's addresses may be a mapping from indices, as TensorFlow takes them. Guards against a job that runs with
    TensorFlow and is refused here."""
    assert parse_tf_config(tf_config("worker", 1, {"worker": {"1": "c:1", "0": "b:1"}})).cluster == (  # type: ignore[dict-item]
        ("worker", ("b:1", "c:1")),
    )


def resolver(job: str | None, index: int | None, cluster: dict[str, Any] | None = None) -> Any:
    """Stands for a ClusterResolver. As a Slurm job's, it knows its task only once it was asked for its cluster."""
    found = SimpleNamespace(task_type=None, task_id=None)

    def cluster_spec() -> Any:
        found.task_type, found.task_id = job, index
        return SimpleNamespace(as_dict=lambda: CLUSTER if cluster is None else cluster)

    found.cluster_spec = cluster_spec
    return found


def strategy(by: Any, replicas: int = 1) -> Any:
    return SimpleNamespace(
        cluster_resolver=by, num_replicas_in_sync=replicas, extended=SimpleNamespace(worker_devices=["CPU:0"])
    )


@pytest.fixture
def in_use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the strategies of this process, and takes TF_CONFIG from it."""
    monkeypatch.delenv("TF_CONFIG", raising=False)

    def use(*strategies: Any) -> None:
        monkeypatch.setattr(holdfast.session.this_task, "_strategies", lambda checkpoints: list(strategies))

    use()
    return use


def test_whoever_names_the_cluster_is_heard(monkeypatch: pytest.MonkeyPatch, in_use: Callable[..., None]) -> None:
    """TF_CONFIG, the argument and the strategies each suffice, and may say the same. Guards against the tasks of a
    Slurm job that take themselves for jobs of one worker."""
    place = parse_tf_config(tf_config("worker", 1))
    assert find_this_task(resolver("worker", 1)) == place
    in_use(strategy(None), strategy(resolver("worker", 1), 3))
    assert find_this_task() == find_this_task(resolver("worker", 1)) == place
    monkeypatch.setenv("TF_CONFIG", tf_config("worker", 1))
    assert find_this_task(resolver("worker", 1)) == place
    in_use()
    assert find_this_task() == place


def test_who_disagrees_is_named(monkeypatch: pytest.MonkeyPatch, in_use: Callable[..., None]) -> None:
    """If two name another task or cluster, the error says which said what. Guards against a worker in the place of
    another, because of a TF_CONFIG that was left over."""
    monkeypatch.setenv("TF_CONFIG", tf_config("worker", 0))
    with pytest.raises(
        InvalidRequest,
        match=r"^TF_CONFIG says that this is worker-0 of {chief: .*}, and the argument cluster_resolver "
        r"\(SimpleNamespace\) that it is worker-1 of {chief: ",
    ):
        find_this_task(resolver("worker", 1))
    monkeypatch.setenv("TF_CONFIG", tf_config("evaluator", 0))
    in_use(strategy(resolver("worker", 0, {"worker": ["b:1"]})))
    with pytest.raises(
        InvalidRequest,
        match=r"this is evaluator-0, which only reads, and the cluster resolver of SimpleNamespace \(SimpleNamespace\) "
        r"that it is worker-0 of {worker: \[b:1\]}\.",
    ):
        find_this_task()


@pytest.mark.parametrize(("job", "index"), [(None, 0), ("worker", None), (None, None)])
def test_a_resolver_that_does_not_know_its_task(
    in_use: Callable[..., None], job: str | None, index: int | None
) -> None:
    """A resolver with a cluster and no task is refused. Guards against all pods of a Kubernetes job as worker 0."""
    with pytest.raises(
        InvalidRequest, match=r"does not say which task of {chief: .*} this is: set its task_type and task_id"
    ):
        find_this_task(resolver(job, index))


def test_a_resolver_that_fails(in_use: Callable[..., None]) -> None:
    """A resolver that fails is named with its reason. Guards against a job of one worker because a service was away."""

    def fail() -> None:
        raise RuntimeError("Pod chief-0 is not running")

    in_use(strategy(SimpleNamespace(cluster_spec=fail)))
    with pytest.raises(InvalidRequest, match=r"resolver of SimpleNamespace .* its cluster is: Pod chief-0 is not run"):
        find_this_task()


def test_a_cluster_that_nobody_names_any_more(in_use: Callable[..., None]) -> None:
    """A strategy of several workers whose cluster is unknown is refused. Guards against a TF_CONFIG that is removed
    once the strategy is made, after which each worker saves alone."""
    in_use(strategy(resolver("worker", 0, {}), replicas=2))
    with pytest.raises(InvalidRequest, match=r"has 1 of its 2 replicas in other processes, and nothing names its"):
        find_this_task()
    assert find_this_task(resolver("worker", 1)).task == Task("worker", 1)


def test_parameter_servers_of_a_resolver(in_use: Callable[..., None]) -> None:
    """A resolver's parameter servers are known like those of TF_CONFIG. Guards against ten minutes for workers that run
    a server and never join."""
    in_use(strategy(resolver("chief", 0, SERVED)))
    assert find_this_task().has_servers
