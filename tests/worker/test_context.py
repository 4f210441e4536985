"""Calls from where TensorFlow does not execute eagerly, and variables of kinds that cannot be saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

import holdfast
from holdfast.saving.capture import capture
from holdfast_storage.errors import InvalidRequest

pytestmark = pytest.mark.tensorflow

CALLS: dict[str, Callable[[holdfast.CheckpointManager], Any]] = {
    "save": lambda manager: manager.save(),
    "save with a number": lambda manager: manager.save(checkpoint_number=7),
    "wait": lambda manager: manager.wait(),
    "restore": lambda manager: manager.restore(),
    "restore_or_initialize": lambda manager: manager.restore_or_initialize(),
}


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[holdfast.CheckpointManager]:
    """One whose folder must stay empty, and whose counter at 0."""
    checkpoint = tf.train.Checkpoint(v=tf.Variable(1.0))
    with holdfast.CheckpointManager(checkpoint, tmp_path) as manager:
        yield manager
        assert not manager._session.has_joined
    assert checkpoint.save_counter.numpy() == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("autograph", [True, False])
def test_inside_of_a_function(manager: holdfast.CheckpointManager, call: str, autograph: bool) -> None:
    """Calls inside a tf.function are refused. Guards against a train step that saves once, when it is traced, and fails
    deep inside TensorFlow."""
    with pytest.raises(Exception, match=r"CheckpointManager\.\w+\(\) was called inside a tf\.function") as caught:
        tf.function(lambda: CALLS[call](manager), autograph=autograph)()
    assert autograph or isinstance(caught.value, InvalidRequest)  # AutoGraph raises one of its own around it


@pytest.mark.parametrize("call", CALLS)
def test_in_a_graph(manager: holdfast.CheckpointManager, call: str) -> None:
    """Calls in a graph of TensorFlow 1 are refused. Guards against a path that is returned for what no session ever
    saves."""
    with tf.Graph().as_default(), pytest.raises(InvalidRequest, match=r"was called in a graph of TensorFlow 1"):
        CALLS[call](manager)


def step(manager: holdfast.CheckpointManager) -> None:
    if tf.constant(1) > 0:
        manager.save()


def test_autograph_leaves_our_methods_alone(
    manager: holdfast.CheckpointManager, caplog: pytest.LogCaptureFixture
) -> None:
    """AutoGraph does not convert our methods. Guards against warnings that ask users to report Holdfast's code to the
    TensorFlow team."""
    with pytest.raises(Exception, match=r"inside a tf\.function"):
        tf.function(step)(manager)
    assert "AutoGraph" not in caplog.text


def test_dtensor(tmp_path: Path) -> None:
    """A DTensor variable is refused by name. Guards against an error about parameter servers where there are none."""
    dtensor = tf.experimental.dtensor
    mesh = dtensor.create_mesh([("x", 1)], devices=["CPU:0"])
    variable = dtensor.DVariable(dtensor.call_with_layout(tf.zeros, dtensor.Layout.replicated(mesh, 1), [4]))
    with pytest.raises(InvalidRequest, match="Variable:0 cannot be saved: it is laid out over a mesh, as in DTensor"):
        holdfast.CheckpointManager(tf.train.Checkpoint(v=variable), tmp_path)
    later = tf.train.Checkpoint()
    manager = holdfast.CheckpointManager(later, tmp_path)
    later.v = variable
    with pytest.raises(Exception, match=r"v/.ATTRIBUTES/VARIABLE_VALUE cannot be saved: .* as in DTensor"):
        capture(later)
    manager.close()


def test_a_variable_on_a_parameter_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable on a parameter server is refused. Guards against a strategy that was given its cluster by hand, which
    only the place of its variables reveals."""
    variable = tf.Variable(1.0, name="w")
    monkeypatch.setattr(type(variable), "device", "/job:ps/replica:0/task:0/device:CPU:0")
    for given in ({"checkpoint": tf.train.Checkpoint(v=[variable])}, {"per_worker": tf.train.Checkpoint(v=variable)}):
        with pytest.raises(InvalidRequest, match=r"w:0 cannot be saved: it lies on a parameter server, and nothing"):
            holdfast.CheckpointManager(directory=tmp_path, **({"checkpoint": tf.train.Checkpoint()} | given))
