"""docs/recipes.md, as a reader would follow it."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from sklearn.datasets import load_digits

from holdfast.cli.target import open_checkpoint
from support.documents import Block, follow, sections

pytestmark = [pytest.mark.tensorflow, pytest.mark.filterwarnings("ignore")]

PAGE = sections("recipes.md")
X = np.random.RandomState(0).rand(16, 64).astype(np.float32)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the program is with which all recipes begin, and its run."""
    directory = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        follow(PAGE[""], directory)
    return directory


@pytest.fixture
def here(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a reader who has that program and its run."""
    directory = Path(shutil.copytree(begun, tmp_path / "here"))
    monkeypatch.chdir(directory)
    return directory


def test_transfer_learning(here: Path) -> None:
    """The larger model has the layers that the smaller one has learnt, is as good, and a second start goes on. Guards
    against a recipe that trains from scratch, or begins anew at each start."""
    recipe = PAGE["Transfer learning: five layers into six"]
    follow(recipe, here)
    follow([Block("console", "$ holdfast export runs/six six.keras\n")], here)
    five, six = (keras.models.load_model(name) for name in ("digits.keras", "six.keras"))
    assert (len(five.layers), len(six.layers)) == (5, 6)
    for old, new in zip(five.layers[:-1], six.layers, strict=False):
        assert all(map(np.array_equal, old.get_weights(), new.get_weights()))
    images, labels = load_digits(return_X_y=True)
    assert (six.predict(images / 16, verbose=0).argmax(1) == labels).mean() > 0.9
    done = open_checkpoint("runs/six")[1]
    follow(recipe[-1:], here)
    assert open_checkpoint("runs/six")[1] == done


def test_serving(here: Path) -> None:
    """What is served is what was promoted, under either number. Guards against a promotion of the newest."""
    follow(PAGE["Serving a promoted step"], here)
    served = [tf.saved_model.load(f"serving/digits/{number}") for number in (1, 2)]
    for step, loaded in zip((4, 5), served, strict=True):
        follow([Block("console", f"$ holdfast export runs/digits@{step} {step}.keras\n")], here)
        model = keras.models.load_model(f"{step}.keras")
        assert np.abs(model(X).numpy() - loaded.serve(X).numpy()).max() < 1e-6


def test_edge_deployment(here: Path) -> None:
    """The file for a device computes in 8 bits, and is nearly as often right as the model. Guards against ranges of
    other inputs, with which it would guess, and against a file that only stores 8 bits."""
    said = follow(PAGE["Edge deployment"], here)
    assert float(said.partition("%")[0]) > 90
    floats = [each["name"] for each in Interpreter("digits.tflite").get_tensor_details() if each["dtype"] == np.float32]
    assert len(floats) == 2, floats  # what goes in, and what comes out


def test_comparing(here: Path) -> None:
    """The picture is made, and the tables are those of the page. Guards against what no reader gets to see."""
    follow(PAGE["Comparing two steps"], here)
    assert (here / "diff.png").read_bytes().startswith(b"\x89PNG")
