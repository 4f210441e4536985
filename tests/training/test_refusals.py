"""Workers that do not agree: refused on all of them, by name, before a byte of the save is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast_storage.layout import parse_folder

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]

WITHIN = 15.0
"""Seconds: far less than any timeout there is, and more than a busy machine needs."""

KEYS = {
    "model/0": "optimizer/_trainable_variables/0/.ATTRIBUTES/VARIABLE_VALUE",
    "optimizer/2": "optimizer/_variables/2/.ATTRIBUTES/VARIABLE_VALUE",
    "optimizer/0": "optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE",
}
"""TensorFlow's keys of what `state.variables` calls by these names."""


@pytest.mark.parametrize(("difference", "key"), [("missing", "m"), ("more", "k"), ("shape", "m"), ("dtype", "m")])
def test_models_that_differ(worlds: Any, tmp_path: Path, difference: str, key: str) -> None:
    """Models that differ are refused on all workers. Guards against pieces of different models in one checkpoint, and a
    save that waits for its deadline."""
    failures = worlds.get(2).run("refusals.differing", directory=str(tmp_path / "run"), difference=difference)
    for failure in failures:
        assert failure["seconds"] < WITHIN
        assert failure["object"] == f"{key}/.ATTRIBUTES/VARIABLE_VALUE"
        assert f"{key}/.ATTRIBUTES/VARIABLE_VALUE" in failure["message"]
        assert failure["workers"] == ["worker-0", "worker-1"]
        assert failure["phase"] == "vote"
    assert not attempts(tmp_path / "run")


def test_a_checkpoint_that_fits_nothing(worlds: Any, tmp_path: Path) -> None:
    """A checkpoint that fits nothing is refused on all workers alike. Guards against training from scratch under its
    name, and workers that wait for others."""
    for refused, failed, meant in worlds.get(2).run("refusals.renamed", directory=str(tmp_path / "run")):
        assert (refused["type"], failed["type"], meant) == ("InvalidRequest", "SaveFailed", None)
        for failure in (refused, failed):
            assert "(net)" in failure["message"]
            assert "(network)" in failure["message"]
            assert failure["seconds"] < WITHIN
    assert len(attempts(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    ("size", "worker", "variable", "suspects"),
    [
        (2, 1, "model/0", ["worker-0", "worker-1"]),
        (2, 0, "optimizer/2", ["worker-0", "worker-1"]),
        (4, 2, "model/0", ["worker-2"]),
        (4, 0, "optimizer/0", ["worker-0"]),
    ],
    ids=["a weight, 2 workers", "a slot, 2 workers", "a weight, 4 workers", "the chief's count of steps, 4 workers"],
)
def test_one_bit(  # noqa: PLR0917 - what is varied
    worlds: Any, tmp_path: Path, size: int, worker: int, variable: str, suspects: list[str]
) -> None:
    """One wrong bit in a replica is refused by name. Guards against a worker with bad memory that goes unnoticed, and
    keeping a copy by chance."""
    arguments = {"directory": str(tmp_path / "run"), "variable": variable, "worker": worker}
    for told in worlds.get(size).run("refusals.flipped", **arguments):
        failure = told["failure"]
        assert failure["type"] == "ReplicaDivergence"
        assert failure["seconds"] < WITHIN
        assert failure["object"] == KEYS[variable]
        assert KEYS[variable] in failure["message"]
        assert all(name in failure["message"] for name in suspects)
        assert failure["workers"] == suspects
        assert told["listed"] == told["committed"]
    assert attempts(tmp_path / "run") == {Path(prefix).parent.name for prefix in told["committed"]}


def attempts(run: Path) -> set[str]:
    """Folders of saves, committed or not."""
    return {each.name for each in run.iterdir() if parse_folder(each.name)}
