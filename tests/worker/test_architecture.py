"""What a checkpoint carries of the architecture of its models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf
import tf_keras

from holdfast import CheckpointManager
from holdfast.keras import training_state
from holdfast.layers.architecture import architecture
from holdfast.saving.capture import Snapshotter
from holdfast_storage.checkpoint.architecture import decode
from holdfast_storage.checkpoint.manifest import read_manifest
from holdfast_storage.layout import ARCHITECTURE
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store

pytestmark = pytest.mark.tensorflow


def dense(library: Any, *more: Any) -> Any:
    return library.Sequential([library.layers.Input((3,)), library.layers.Dense(2), *more])


class Own(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return x


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_it_rebuilds_the_model(library: Any) -> None:
    """The architecture rebuilds a model with the same names and shapes, and without its optimizer. Guards against a
    checkpoint that only the program that made it can use."""
    model = dense(library, library.layers.BatchNormalization())
    model.compile(library.optimizers.Adam(), loss=lambda y, z: z)
    (found,) = decode(architecture(training_state(model))[ARCHITECTURE])
    rebuilt = library.saving.deserialize_keras_object(found.config)
    assert (found.path, found.keras, found.version) == (("model",), library.__name__, library.__version__)
    assert [(w.name, w.shape) for w in rebuilt.weights] == [(w.name, w.shape) for w in model.weights]
    assert "lambda" not in json.dumps(found.config)


def test_models_below_a_checkpoint() -> None:
    """Models are found in a checkpoint and in one that is a part of it. Guards against programs that save their step
    beside their training state."""
    both = tf.train.Checkpoint(net=dense(keras), state=training_state(dense(keras)), step=tf.Variable(0))
    found = decode(architecture(both)[ARCHITECTURE])
    assert sorted(model.path for model in found) == [("net",), ("state", "model")]


def relu(x: Any) -> Any:
    return -x


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
@pytest.mark.parametrize(
    "make",
    [
        lambda layers: Own() if layers is keras.layers else type("Own", (layers.Layer,), {})(),
        lambda layers: layers.Lambda(lambda x: x),
        lambda layers: layers.Dense(1, activation=lambda x: x),
        lambda layers: layers.Dense(1, activation=relu),
        lambda layers: layers.Dense(1, kernel_initializer=lambda shape, dtype: tf.zeros(shape)),
        lambda layers: layers.TimeDistributed(layers.Dense(1, activation=relu)),
    ],
    ids=["class", "Lambda", "lambda", "function", "initializer", "wrapped"],
)
def test_what_is_not_of_keras(library: Any, make: Any) -> None:
    """A model with something of the program's own has none. Guards against code in a checkpoint, and a function of the
    program's that comes back as the one of Keras's that has the same name."""
    assert architecture(tf.train.Checkpoint(model=library.Sequential([make(library.layers)]))) == {}


def test_snapshots_stay_fast() -> None:
    """Snapshots of a model with an architecture read its variables directly, and have it each time. Guards against an
    architecture that costs ten times what a snapshot does."""
    snapshotter = Snapshotter(training_state(dense(keras)))
    first, second = snapshotter.capture(), snapshotter.capture()
    assert snapshotter._direct is not None
    assert first.assets == second.assets != {}


def test_it_is_an_object_of_the_checkpoint(tmp_path: Path) -> None:
    """A save writes it beside the tensors, and the manifest lists it, each time. Guards against one that is missing in
    all saves but the first."""
    with CheckpointManager(training_state(dense(keras)), tmp_path) as manager:
        for step in (1, 2, 3):
            manager.save(step)
        manager.wait()
    store = open_store(tmp_path)
    state = read_run(store)
    assert state is not None
    for record in state.checkpoints:
        asset = next(each for each in read_manifest(store, record).objects if each.role == "asset")
        assert (asset.name, str(asset.task)) == (ARCHITECTURE, "worker-0")
        assert decode(store.read(f"{record.folder}/{asset.name}"))[0].path == ("model",)
