"""Keras's own `fit` under a distribution strategy. Custom loops over Keras 3 are in test_resume.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]


@pytest.mark.parametrize(
    ("size", "framework", "mirrored"),
    [(2, "tf_keras", False), (1, "keras", True), (1, "tf_keras", True)],
    ids=["tf_keras, 2 workers", "keras, MirroredStrategy", "tf_keras, MirroredStrategy"],
)
def test_fit_goes_on_bit_equal(worlds: Any, tmp_path: Path, size: int, framework: str, mirrored: bool) -> None:
    """`fit` after a restore goes on bit-equal. Guards against other statistics or other dropout masks."""
    workers = worlds.get(size).run("fitting.fit", directory=str(tmp_path), framework=framework, mirrored=mirrored)
    assert len(workers) == size
    for worker in workers:
        assert Path(worker["prefix"]).name == "ckpt-2"
        assert list(worker["restored"].values()) == list(worker["saved"].values())
        assert worker["resumed"][0] == worker["went_on"][0]
        assert list(worker["resumed"][1].values()) == list(worker["went_on"][1].values())
