"""Which format a name means, and what is refused before TensorFlow is imported."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from holdfast.bridges.formats import FORMATS, format_of
from holdfast.cli import main
from holdfast_storage.cluster import Task
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.store import open_store
from support.committed import commit_run


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("a/m.keras", "keras"),
        ("m.weights.h5", "weights.h5"),
        ("s3://b/m.h5", "h5"),
        ("m.H5", "h5"),
        ("m.savedmodel/", "savedmodel"),
        ("m.tflite", "tflite"),
        ("m.onnx", "onnx"),
        ("m.safetensors", "safetensors"),
    ],
)
def test_suffixes(url: str, name: str) -> None:
    """The suffix says the format, the longest one first. Guards against weights that are taken for a whole model."""
    assert format_of(url, None).name == name
    assert format_of(url, "checkpoint").name == "checkpoint"


def test_no_format() -> None:
    """A name that says nothing is refused, with what it could say."""
    with pytest.raises(InvalidRequest, match=r"\.safetensors, or give --format \(checkpoint, savedmodel"):
        format_of("model", None)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    commit_run(open_store(tmp_path / "run"), [10], [Task("worker", 0)])
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("out",), "does not say its format"),
        (("out.keras", "--quantize", "int8"), "are for .tflite"),
        (("out.tflite", "--quantize", "int8"), "go together"),
        (("out.tflite", "--representative", "a:b"), "go together"),
        (("there.keras",), "there already: name another place, or give --overwrite"),
        (("nothing://x/out.keras",), "nothing"),
        (("s3://user:secret@host/x.keras/..//", "--format", "keras"), ""),
    ],
)
def test_refused_at_once(run: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], told: str) -> None:
    """What cannot be is refused in a sentence, before TensorFlow is imported. Guards against half a minute of work that
    ends in a name that is taken, and a traceback."""
    monkeypatch.chdir(run.parent)
    Path("there.keras").write_text("kept")
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # an import fails
    done = CliRunner().invoke(main, ["export", str(run), *arguments])
    assert done.exit_code in (1, 2)
    assert told in done.output
    assert "secret" not in done.output
    assert Path("there.keras").read_text() == "kept"


@pytest.mark.parametrize("format", [each for each in FORMATS if each.packages], ids=lambda each: each.name)
def test_missing_packages(run: Path, monkeypatch: pytest.MonkeyPatch, format: Any) -> None:
    """A package that is missing is named, with what installs it. Guards against an ImportError after the work."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in format.packages else find(name))
    done = CliRunner().invoke(main, ["export", str(run), str(run.parent / "out"), "--format", format.name])
    assert done.exit_code == 2
    assert format.packages[0] in done.output
    assert "pip install holdfast[export]" in done.output
