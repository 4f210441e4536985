"""How the cluster is found with TensorFlow's own strategies and cluster resolvers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf

import holdfast
from holdfast.session.this_task import ALONE, ThisTask, find_this_task
from holdfast_storage.cluster import Task
from holdfast_storage.errors import InvalidRequest, SaveFailed

pytestmark = pytest.mark.tensorflow

resolvers = tf.distribute.cluster_resolver

SLURM = {
    "SLURM_PROCID": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}
SLURM_PLACE = ThisTask(Task("worker", 1), (("worker", ("node1:8888", "node2:8888")),))


@pytest.fixture(autouse=True)
def no_tf_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The resolver of the second task of a Slurm job."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    return resolvers.SlurmClusterResolver(gpus_per_node=1, gpus_per_task=1, auto_set_gpu=False)


LOCAL: dict[str, Callable[[], Any]] = {
    "OneDeviceStrategy": lambda: tf.distribute.OneDeviceStrategy("CPU:0"),
    "MirroredStrategy": lambda: tf.distribute.MirroredStrategy(["CPU:0"]),
    "CentralStorageStrategy": lambda: tf.distribute.experimental.CentralStorageStrategy(["CPU:0"]),
    "MultiWorkerMirroredStrategy": tf.distribute.MultiWorkerMirroredStrategy,
}


@pytest.mark.parametrize("name", LOCAL)
def test_strategies_of_one_process(name: str) -> None:
    """A strategy of one process is a world of one, in its scope and by its variables. Guards against a program on one
    machine that waits for others."""
    with LOCAL[name]().scope():
        checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0))
        assert find_this_task(None, checkpoint) == ALONE
    assert find_this_task(None, checkpoint) == ALONE


def test_a_resolver_as_an_argument(slurm: Any) -> None:
    """A resolver may be given apart from any strategy. Guards against launchers for which there is no strategy."""
    assert find_this_task(slurm) == SLURM_PLACE


class ManyWorkers(tf.distribute.MirroredStrategy):  # type: ignore[misc]
    """Stands for a MultiWorkerMirroredStrategy, the making of which would wait for the other workers."""

    def __init__(self, cluster_resolver: Any) -> None:
        super().__init__(["CPU:0"])
        self.resolver = cluster_resolver

    @property
    def cluster_resolver(self) -> Any:
        return self.resolver


MADE: dict[str, Callable[[], Any]] = {
    "a variable": lambda: tf.Variable(1.0),
    "a variable of its own on each replica": lambda: tf.Variable(
        1.0, synchronization=tf.VariableSynchronization.ON_READ, aggregation=tf.VariableAggregation.SUM
    ),
    "a Keras 3 layer": lambda: built(keras.layers.Dense(2)),
    "a Keras 3 optimizer": lambda: keras.optimizers.SGD(),  # noqa: PLW0108 - in the scope
}


def built(layer: Any) -> Any:
    layer.build((None, 3))
    return layer


@pytest.mark.parametrize("what", MADE)
@pytest.mark.parametrize("where", ["checkpoint", "per_worker"])
def test_the_strategy_of_the_variables(slurm: Any, what: str, where: str) -> None:
    """After the scope, variables show their strategy's cluster. Guards against two tasks of a job that overwrite each
    other's checkpoints as jobs of one worker."""
    with ManyWorkers(slurm).scope():
        assert find_this_task() == SLURM_PLACE
        checkpoint = tf.train.Checkpoint(below=tf.train.Checkpoint(found=MADE[what]()))
    assert find_this_task() == ALONE
    found = (checkpoint, None) if where == "checkpoint" else (tf.train.Checkpoint(), checkpoint)
    assert find_this_task(None, *found) == SLURM_PLACE


def test_variables_that_are_made_later(slurm: Any, tmp_path: Path) -> None:
    """Variables that are made before the first collective call are looked at, too. Guards against a manager that was
    made first."""
    checkpoint = tf.train.Checkpoint()
    manager = holdfast.CheckpointManager(checkpoint, tmp_path, join_timeout=0.1)
    with ManyWorkers(slurm).scope():
        checkpoint.v = tf.Variable(1.0)
    with pytest.raises(holdfast.errors.CoordinatorUnavailable, match="worker-1 could not join"):
        manager.restore_or_initialize()
    manager.close()


def test_variables_that_are_made_too_late(slurm: Any, tmp_path: Path) -> None:
    """A world of one does not save variables that belong to several workers. Guards against a model that is built after
    the restore, in a job whose cluster nothing else names."""
    checkpoint = tf.train.Checkpoint()
    manager = holdfast.CheckpointManager(checkpoint, tmp_path)
    assert manager.restore_or_initialize() is None
    with ManyWorkers(slurm).scope():
        checkpoint.v = tf.Variable(1.0)
    with pytest.raises(SaveFailed, match=r"are those of worker-1 of {worker: .*cluster_resolver=strategy\."):
        manager.save(blocking=True)
    assert manager.checkpoints == []
    manager.close()


def test_resolvers_that_do_not_know_the_task() -> None:
    """TensorFlow's resolvers may know no task. Guards against a task None."""
    simple = resolvers.SimpleClusterResolver(tf.train.ClusterSpec({"worker": ["a:1", "b:1"]}))
    with pytest.raises(InvalidRequest, match=r"SimpleClusterResolver.* set its task_type and task_id"):
        find_this_task(simple)
    simple.task_type, simple.task_id = "worker", 1
    assert find_this_task(simple).task == Task("worker", 1)
    sparse = resolvers.SimpleClusterResolver(tf.train.ClusterSpec({"worker": {0: "a:1", 2: "b:1"}}), task_type="worker")
    with pytest.raises(InvalidRequest, match="addresses of job worker must be a list"):
        find_this_task(sparse)


def test_a_tpu_is_used_by_one_process() -> None:
    """A TPU's hosts are no workers. Guards against a program that waits for programs on hosts that run none."""
    tpu = object.__new__(resolvers.TPUClusterResolver)
    assert find_this_task(tpu) == ALONE


def test_tf_config_of_an_evaluator(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluator with a strategy of its own reads. Guards against a disagreement where there is none."""
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"chief": ["a:1"]}, "task": {"type": "evaluator", "index": 0}}')
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0))
    assert find_this_task(None, checkpoint).reader == "evaluator-0"
    assert find_this_task(resolvers.TFConfigClusterResolver(), checkpoint).reader == "evaluator-0"
