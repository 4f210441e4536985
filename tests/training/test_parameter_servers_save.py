"""Saves of what lies on parameter servers, against TensorFlow's own, with real servers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from signal import Signals

import numpy as np
import pytest

from support.light_worker import until
from support.server_world import ServerWorld, ask
from support.training_world import QUIET, Worker

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerWorld]:
    world = ServerWorld(tmp_path_factory.mktemp("cluster"))
    world.start()
    yield world
    world.close()


@pytest.mark.parametrize("kind", ["keras", "tf_keras", "legacy"])
def test_everything_is_saved_as_tensorflow_saves_it(cluster: ServerWorld, tmp_path: Path, kind: str) -> None:
    """Every dtype, partitioner, optimizer, table and text lies in the checkpoint as TensorFlow writes it, slices
    included, and TensorFlow reads it without a strategy. Guards against a value that is left out, of another server, or
    in slices that only this library can read."""
    found = cluster.run("served_kinds.compare", directory=str(tmp_path / "run"), kind=kind)
    assert found["differing"] == []
    assert found["entries"] > 150
    assert found["sliced"] >= 40
    assert found["restored"] == [[1.0, 2.0], [[2.0, 2.0]] * 3]  # a table, and a variable that has grown
    # TensorFlow itself joins no slices of the others.
    joined = ("float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8")
    names = [f"{dtype}_10" for dtype in joined] + [f"{dtype}_3" for dtype in (*joined, "float16", "uint16", "uint64")]
    alone = Worker("alone", tmp_path / "alone.log", {"TF_CONFIG": "{}", **QUIET}, None)
    try:
        read = ask(alone, "served_kinds.read_by_stock", prefix=found["prefix"], names=names)
    finally:
        alone.close()
    expected = {rows: np.arange(3.0 * rows).reshape(rows, 3).tolist() for rows in (3, 10)}
    assert read["values"] == {name: expected[int(name.rpartition("_")[2])] for name in names}
    assert read["restored"] == expected[10]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["keras", "tf_keras"])
def test_a_model_is_exported(cluster: ServerWorld, tmp_path: Path, kind: str) -> None:
    """What two servers have saved becomes a model that predicts what it did on the servers: by Keras's file, by weights
    alone, by TensorFlow's checkpoint. Guards against a table with the rows of one server, or in another order."""
    import tensorflow as tf
    from safetensors.numpy import load_file

    from holdfast.bridges.model import weights_of
    from holdfast.keras import training_state
    from support.bridged import holdfast, library_of

    run, pairs = tmp_path / "run", [[0, 9], [4, 7], [3, 5], [1, 8]]
    expected = cluster.run("served_kinds.predicting", directory=str(run), kind=kind, pairs=pairs)
    assert len(list(run.glob("ckpt-3.*/*.data-*"))) >= 2
    for out, options in (("m.keras", []), ("m.safetensors", []), ("stock", ["--format", "checkpoint"])):
        done = holdfast("export", run, tmp_path / out, *options)
        assert done.exit_code == 0, done.output

    found = []

    def predict() -> None:
        found.append(np.asarray(model(np.array(pairs), training=False)).tolist())
        model.set_weights([np.zeros(weight.shape) for _, weight in weights_of(model)])

    model = library_of(kind).models.load_model(str(tmp_path / "m.keras"), compile=False)
    predict()
    values = load_file(tmp_path / "m.safetensors")
    model.set_weights([values[name] for name, _ in weights_of(model)])
    predict()
    training_state(model).restore(tf.train.latest_checkpoint(str(tmp_path / "stock"))).expect_partial()
    predict()
    assert found[0] == found[1] == found[2]
    np.testing.assert_allclose(found[0], expected, atol=1e-6)  # another process, perhaps with other kernels


def test_what_is_saved_is_of_one_step(cluster: ServerWorld, tmp_path: Path) -> None:
    """A save has what had been scheduled before it, and nothing of the 200 steps that go on while it is written. What a
    scheduled function raises comes out before the save counts. An interval counts by the step that is saved. Guards
    against parts of different steps, also of variables that are updated in place, against a checkpoint of a step that
    failed, and against a step that is saved twice."""
    found = cluster.run("served_kinds.cut", directory=str(tmp_path / "run"))
    assert found["found"] == [[20.0], [240.0], [460.0]]
    assert "assertion" in found["raised"]
    assert (found["counted"], found["committed"]) == (0, 3)
    assert found["late"] == 0


def test_what_cannot_be_saved_is_refused(cluster: ServerWorld, tmp_path: Path) -> None:
    """It is refused by its name before a byte is written. Guards against half a checkpoint, and against servers that
    wait for a save that does not come."""
    found = cluster.run("served_kinds.refused", directory=str(tmp_path / "run"))
    assert found["per_worker"]["type"] == "InvalidRequest"
    assert "per_worker cannot be saved with parameter servers" in found["per_worker"]["message"]
    assert found["iterator"]["type"] == "InvalidRequest"
    assert "data" in found["iterator"]["message"]
    assert not found["written"]


def test_saves_on_request(cluster: ServerWorld, tmp_path: Path) -> None:
    """The chief saves by the clock and at notice of a preemption, with servers that have no loop. Guards against a
    request for which everybody waits until the servers have come to a step."""
    found = cluster.run("served_kinds.requested", directory=str(tmp_path / "run"))
    assert found["code"] == 143
    assert found["saves"] == 2
    assert found["committed"] == 3


def test_a_server_that_is_preempted(tmp_path: Path) -> None:
    """SIGTERM on a server is notice for all: the chief saves and ends, and then the server does. Guards against a spot
    instance with whose parameters everything since the last save is lost."""
    world, directory = ServerWorld(tmp_path / "cluster"), tmp_path / "run"
    try:
        world.start()
        world.chief.tell("served_kinds.noticed", {"directory": str(directory)})
        until(lambda: Path(f"{directory}.trains").exists())
        world.running["ps-1"].send(Signals.SIGTERM)
        found = world.chief.answer(time.monotonic() + 60.0)
        assert (found["code"], found["lost"]) == (143, 0)
        assert "SIGTERM on ps-1" in found["why"]
        assert world.running["ps-1"].wait(30.0) == 0
    finally:
        world.close()


def test_nothing_is_read_back_through_the_chief(cluster: ServerWorld, tmp_path: Path) -> None:
    """The servers read each other's parts of a new checkpoint before retention removes the one before. Guards against a
    state that passes through the chief after all, in whose process the coordinator is."""
    found = cluster.run("served_read_back.chief_reads", directory=str(tmp_path / "run"))
    assert found["left"] == 1
    assert found["read"] < 0.01 * found["size"], found


def test_a_server_without_holdfast(tmp_path: Path) -> None:
    """A server that runs TensorFlow's alone is named at once. Guards against ten minutes for a member that never joins,
    and against a checkpoint without its part."""
    world = ServerWorld(tmp_path / "cluster")
    config = json.dumps({"cluster": world.cluster, "task": {"type": "ps", "index": 1}})
    plain = Worker("ps-1", tmp_path / "plain.log", {"TF_CONFIG": config, **QUIET}, None)
    try:
        plain.tell("serving.work", {})
        world.start("chief-0", "worker-0", "ps-0")
        found = world.run("served_kinds.without_agent", directory=str(tmp_path / "run"))
        assert found["type"] == "InvalidRequest"
        assert found["workers"] == ["ps-1"], found
        assert "ps-1 runs without Holdfast: call holdfast.serve_parameter_server()" in found["message"]
        assert found["seconds"] < 30.0
    finally:
        plain.close()
        world.close()
