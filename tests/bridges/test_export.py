"""From a checkpoint to every format, and what the ecosystem's readers make of it; and from there to a run again."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast import CheckpointManager
from holdfast.bridges.formats import FORMATS
from holdfast.keras import training_state
from support.bridged import MODELS, PREDICT, WRITE, by_function, holdfast, predictions

pytestmark = [pytest.mark.tensorflow, pytest.mark.filterwarnings("ignore")]

EXACT = tuple(WRITE)
MATRIX = Path(__file__).parents[2] / "docs" / "bridges.md"

found: dict[tuple[str, str, str], str] = {}
"""How far predictions differ at most: by format, direction and model."""


def exists(format: str, name: str) -> bool:
    """Whether there are such files: no Keras reads a subclassed model from `.h5`."""
    return format != "h5" or "subclassed" not in name


def compare(format: str, direction: str, name: str, predicted: Any, expected: Any) -> None:
    worst = np.abs(predicted - expected).max()
    assert worst == 0 if format in EXACT else worst < 1e-5
    found[format, direction, name] = "0" if format in EXACT else "< 1e-5"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("format", PREDICT)
def test_out(runs: dict[str, Any], tmp_path: Path, name: str, format: str) -> None:
    """What is exported predicts what the model did: exactly, where the format keeps all numbers. Guards against an
    exporter that gets another model, or initial values."""
    run, expected = runs[name]
    out = tmp_path / f"out.{format}"
    options = by_function(name) if "subclassed" in name else []
    done = holdfast("export", f"{run}@1", out, "--format", format, *options)
    if not exists(format, name):
        assert done.exit_code == 2
        assert "no Keras reads a subclassed model from .h5" in done.output
        assert list(tmp_path.iterdir()) == []
        return
    assert done.exit_code == 0, done.output
    compare(format, "out", name, PREDICT[format](out, name), expected)
    assert list(tmp_path.iterdir()) == [out]
    if format in EXACT:
        _import(out, tmp_path / "back", name, format, expected, direction="round trip")


@pytest.mark.parametrize(("format", "name"), [pair for pair in product(WRITE, MODELS) if exists(*pair)])
def test_in(trained_models: dict[str, Any], tmp_path: Path, name: str, format: str) -> None:
    """What others have saved becomes a step of a run, with which a program goes on as it was. Guards against weights
    that go to other layers, or nowhere."""
    model = trained_models[name]
    source = tmp_path / ("source" if format == "checkpoint" else f"source.{format}")
    WRITE[format](model, source)
    _import(source, tmp_path / "run", name, format, predictions(model), direction="in")


def _import(source: Path, run: Path, name: str, format: str, expected: Any, *, direction: str) -> None:
    has_model = format == "checkpoint" or (format in ("keras", "h5") and "subclassed" not in name)
    done = holdfast("import", source, run, "--step", 3, "--format", format, *([] if has_model else by_function(name)))
    assert done.exit_code == 0, done.output
    model = MODELS[name]()
    assert np.abs(predictions(model) - expected).max() > 1e-3
    with CheckpointManager(training_state(model), run) as manager:
        prefix = manager.restore_or_initialize()
        assert prefix is not None
        assert prefix.endswith("ckpt-3")
        compare(format, direction, name, predictions(model), expected)
        manager.save(4, blocking=True)
    assert holdfast("verify", run).exit_code == 0


def test_every_format_is_tested() -> None:
    """The matrix is whole. Guards against a format that nobody has read."""
    assert {each.name for each in FORMATS} == set(PREDICT)


def test_the_matrix_is_documented() -> None:
    """The documents have the matrix that was measured. REWRITE=1 writes it there."""
    if len(found) < 6 * 8 - 2 + 2 * (6 * 6 - 2):
        pytest.skip("only a part of the tests has run here")
    lines = [f"| format | | {' | '.join(MODELS)} |", f"| --- | --- |{' --- |' * len(MODELS)}"]
    for format in PREDICT:
        for direction in ("out", "in", "round trip"):
            cells = [found.get((format, direction, name), "-") for name in MODELS]
            if set(cells) != {"-"}:
                lines.append(f"| `{format}` | {direction} | {' | '.join(cells)} |")
    before, _, rest = MATRIX.read_text().partition("<!-- matrix -->\n")
    table, after = "\n".join(lines), rest.partition("<!-- end -->\n")[2]
    text = f"{before}<!-- matrix -->\n{table}\n<!-- end -->\n{after}"
    if os.environ.get("REWRITE"):
        MATRIX.write_text(text)
    assert MATRIX.read_text() == text
