"""`holdfast export`: from a checkpoint to every format, and what the ecosystem's readers make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from holdfast import CheckpointManager
from holdfast.bridges.formats import FORMATS
from holdfast.cli import main
from holdfast.keras import training_state
from support.bridged import MODELS, PREDICT, predictions, trained

pytestmark = [pytest.mark.tensorflow, pytest.mark.filterwarnings("ignore")]

EXACT = ("checkpoint", "savedmodel", "weights.h5", "keras", "h5", "safetensors")


def holdfast(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="holdfast", catch_exceptions=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """A run of each model, and what the model predicted when its last step was saved."""
    made = {}
    for name in MODELS:
        run = tmp_path_factory.mktemp(name.replace(" ", "_"))
        model = trained(name)
        with CheckpointManager(training_state(model), run) as manager:
            manager.save(1, blocking=True)
        made[name] = run, predictions(model)
    return made


def options(name: str) -> list[str]:
    return ["--model", f"support.bridged:{name.replace(' ', '_')}"] if "subclassed" in name else []


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("format", PREDICT)
def test_every_format_of_every_model(runs: dict[str, Any], tmp_path: Path, name: str, format: str) -> None:
    """What is exported predicts what the model did: exactly, where the format keeps all numbers. Guards against an
    exporter that gets another model, or initial values."""
    run, expected = runs[name]
    out = tmp_path / f"out.{format}"
    done = holdfast("export", f"{run}@1", out, "--format", format, *options(name))
    if format == "h5" and "subclassed" in name:
        assert done.exit_code == 2
        assert "no Keras reads a subclassed model from .h5" in done.output
        assert list(tmp_path.iterdir()) == []
        return
    assert done.exit_code == 0, done.output
    difference = np.abs(PREDICT[format](out, name) - expected).max()
    assert difference == 0 if format in EXACT else difference < 1e-5
    assert list(tmp_path.iterdir()) == [out]


def test_every_format_is_tested() -> None:
    """The matrix is whole. Guards against a format that nobody has read."""
    assert {each.name for each in FORMATS} == set(PREDICT)
