"""Directories in which TensorFlow's own CheckpointManager has been at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]


@pytest.mark.parametrize("size", [1, 2])
def test_a_stock_directory_is_taken_over(worlds: Any, tmp_path: Path, size: int) -> None:
    """A directory of TensorFlow's manager is taken over. Guards against a first job that starts from scratch, and
    retention that removes what it has not written."""
    (values,) = worlds.get(1).run("stock.write", directory=str(tmp_path), saves=3, keep=2)
    stock = {f: f.read_bytes() for f in tmp_path.iterdir() if f.name != "checkpoint"}
    kept = [str(tmp_path / "ckpt-2"), str(tmp_path / "ckpt-3")]
    for worker in worlds.get(size).run("stock.take_over", directory=str(tmp_path), saves=3):
        assert worker["before"] == kept
        assert worker["restored"] == kept[-1]
        assert worker["values"] == values
        assert [Path(prefix).name for prefix in worker["saved"]] == ["ckpt-4", "ckpt-5", "ckpt-6"]
    assert {f: f.read_bytes() for f in stock} == stock
    # The next job goes on from there.
    newest = worker["saved"][-1]
    (following,) = worlds.get(1).run("stock.take_over", directory=str(tmp_path), saves=1)
    assert following["before"] == [*kept, newest]
    assert following["restored"] == following["latest"] == newest
    assert following["values"] == values
    assert {f: f.read_bytes() for f in stock} == stock
