"""Readers of a run that another job trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast_storage.layout import parse_folder
from holdfast_storage.log.log import Log
from holdfast_storage.store import open_store
from support.child import Child
from support.training_world import PROGRAMS, QUIET

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]

READS = 60


def test_an_evaluator_misses_nothing(tmp_path: Path) -> None:
    """An evaluator with TensorFlow's reader never meets a checkpoint that is gone, of a job that keeps one and saves as
    fast as it can. Guards against a read in ten that fails, since retention was faster. Afterwards one checkpoint is
    there, and no lease."""
    run = tmp_path / "run"
    writer = Child([str(PROGRAMS / "endless_writer.py"), str(run)])
    try:
        evaluator = subprocess.run(
            [sys.executable, str(PROGRAMS / "evaluator.py"), str(run), str(READS)],
            env={**os.environ, **QUIET},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert evaluator.returncode == 0, evaluator.stderr
        writer.say("end")
        commits = int(writer.expect("saved ").split()[1])
        assert writer.wait() == 0
    finally:
        writer.end()
    assert json.loads(evaluator.stdout.splitlines()[-1]) == {"read": READS, "failures": []}
    assert commits > READS
    last = Log(open_store(run)).tail()
    assert last is not None
    assert last.state.leases == ()
    assert len([path for path in run.iterdir() if parse_folder(path.name)]) == 1
