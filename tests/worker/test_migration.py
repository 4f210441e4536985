"""docs/migration.md: its diff, there and back, and what a run directory looks like then."""

from __future__ import annotations

import re
import runpy
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import tensorflow as tf

from support.documents import Block, alike, follow, sections

pytestmark = pytest.mark.tensorflow

PAGE = sections("migration.md")["From `tf.train.CheckpointManager`"]
DIFF, SHOWN = [block for language in ("diff", "console") for block in PAGE if block.language == language]


def start(side: str) -> tuple[list[int], list[int]]:
    """Run one side of the diff, `-` or `+`, in the working directory. Where it began and what its manager has then."""
    lines = [line for line in DIFF.text.splitlines() if line[:1] in (side, " ", "")]
    Path("program.py").write_text("".join(f"{line[1:]}\n" for line in lines))
    with redirect_stdout(StringIO()) as said:
        names = runpy.run_path("program.py")
    manager, step = names["manager"], int(names["step"])
    getattr(manager, "close", manager.sync)()
    assert names["weights"].numpy().tolist() == [1.0 * step, 2.0 * step]
    return numbers(re.findall(r"run\S*-\d+$", said.getvalue(), re.MULTILINE)), numbers(manager.checkpoints)


def numbers(prefixes: list[str]) -> list[int]:
    """As programs take them from paths."""
    return [int(prefix.split("-")[-1]) for prefix in prefixes]


def files(directory: str = "run") -> list[str]:
    return sorted(str(path) for path in Path(directory).rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_a_run_directory_looks_like() -> None:
    """A run directory has the files that the page lists. Guards against scripts that look for names of which nobody has
    told."""
    assert start("+") == ([], [2, 3, 4])
    assert alike(SHOWN.text, "\n".join(["$ find run -type f | sort", *files()]))


def test_there_and_back(caplog: pytest.LogCaptureFixture) -> None:
    """The program goes on from the last save, whichever of the two managers made it. What TensorFlow's has saved is
    listed, does not count, and stays; what exceeds its own `max_to_keep` it deletes, but for our manifests. Guards
    against a trial of either that costs what was trained."""
    assert start("-") == ([], [2, 3, 4])
    stock = files()
    assert start("+") == ([4], [2, 3, 4, 6, 7, 8])
    assert set(stock) <= set(files())
    assert start("-") == ([8], [10, 11, 12])
    assert {Path(path).name for path in files() if Path(path).parent.name.startswith("ckpt-")} == {"manifest.json"}
    caplog.clear()
    with caplog.at_level("WARNING", "holdfast"):
        assert start("+") == ([12], [2, 3, 4, 10, 11, 12, 14, 15, 16])
    assert "ckpt-12" in caplog.text
    restored = tf.train.load_checkpoint(str(tf.train.latest_checkpoint("run")))
    assert restored.get_tensor("step/.ATTRIBUTES/VARIABLE_VALUE") == 16


def test_a_copy_is_read_by_tensorflow(tmp_path: Path) -> None:
    """TensorFlow finds the newest in a copy. Guards against a run in a bucket that TensorFlow never reads again."""
    start("+")
    follow([Block("console", "$ holdfast cp run copy\n")], tmp_path)
    Path("run").rename("elsewhere")
    newest = str(tf.train.latest_checkpoint("copy"))
    assert tf.train.load_checkpoint(newest).get_tensor("step/.ATTRIBUTES/VARIABLE_VALUE") == 4


def test_going_on_from_an_older_one(tmp_path: Path) -> None:
    """The program goes on from what the command names, and not from what somebody writes into TensorFlow's file. Guards
    against a rollback that the next start does not follow."""
    start("+")
    (older,) = Path("run").glob("ckpt-3.*/*.index")
    file = Path("run/checkpoint")
    edited = re.sub('(?<=^model_checkpoint_path: )".*"', f'"{older.parent.name}/ckpt-3"', file.read_text())
    file.write_text(edited)
    assert str(tf.train.latest_checkpoint("run")).endswith("-3")
    assert start("+") == ([4], [6, 7, 8])
    follow([Block("console", "$ holdfast rollback run@6\n")], tmp_path)
    assert start("+") == ([6], [8, 9, 10])
