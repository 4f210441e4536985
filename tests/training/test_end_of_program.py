"""A program's last save, where nothing is closed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store
from servers.base import Location
from servers.fixtures import ObjectStore
from support.ports import free_address
from support.training_world import PROGRAMS, QUIET

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]


@pytest.mark.parametrize("kind", ["posix", "s3"])
def test_the_last_save_is_committed(kind: str, tmp_path: Path, object_store: ObjectStore) -> None:
    """The last save of a program is committed. Guards against losing it at the interpreter's end, where thread pools
    and event loops refuse work."""
    place = Location(str(tmp_path), {}, {}) if kind == "posix" else object_store(kind).location()
    run = f"{place.url}/run"
    cluster = {"worker": [free_address() for _ in range(2)]}
    with ExitStack() as stack:
        processes = []
        for index in range(2):
            config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
            log = stack.enter_context(open(tmp_path / f"{index}.log", "wb"))
            process = subprocess.Popen(
                [sys.executable, str(PROGRAMS / "just_end.py"), run, "3"],
                env={**os.environ, **QUIET, **place.environment, "TF_CONFIG": json.dumps(config)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        statuses = [process.wait(120.0) for process in processes]
    logs = [(tmp_path / f"{index}.log").read_text() for index in range(2)]
    assert statuses == [0, 0], logs
    assert "Traceback" not in "".join(logs)
    state = read_run(open_store(run, place.storage_options))
    assert state is not None
    assert [c.step for c in state.checkpoints] == [3]
