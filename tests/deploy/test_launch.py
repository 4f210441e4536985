"""launch.py, run as the images run it: a process that becomes another one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "deploy" / "launch.py"
SHOW = "import os, sys; print(os.environ.get('TF_CONFIG')); sys.exit(7)"
WORLD = {"WORKERS": "3", "WORKER_ADDRESS": "holdfast-worker-{index}.holdfast-workers:2222"}

pytestmark = pytest.mark.processes


def launch(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in {"TF_CONFIG", "JOB_COMPLETION_INDEX"}}
    return subprocess.run(
        [sys.executable, str(LAUNCH), *command],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("index", range(3))
def test_each_index_gets_its_own_task_in_one_cluster(index: int) -> None:
    """Each index gets its own task in one cluster. Guards against workers with different clusters, or two with one
    index."""
    done = launch(sys.executable, "-c", SHOW, JOB_COMPLETION_INDEX=str(index), **WORLD)
    assert json.loads(done.stdout) == {
        "cluster": {"worker": [f"holdfast-worker-{task}.holdfast-workers:2222" for task in range(3)]},
        "task": {"type": "worker", "index": index},
    }


def test_the_programs_exit_status_is_the_containers() -> None:
    """The program's exit status is the container's. Guards against a launcher that hides a failed worker, which is then
    not restarted."""
    assert launch(sys.executable, "-c", SHOW, JOB_COMPLETION_INDEX="0", **WORLD).returncode == 7


def test_outside_a_job_the_environment_is_left_alone() -> None:
    """Outside a Job the environment stays as it is. Guards against a TF_CONFIG of compose's that is replaced by another
    world."""
    assert launch(sys.executable, "-c", SHOW, TF_CONFIG="given").stdout == "given\n"
    assert launch(sys.executable, "-c", SHOW, **WORLD).stdout == "None\n"


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"WORKERS": "3"}, "WORKER_ADDRESS"),
        ({"WORKER_ADDRESS": "w-{index}:2222"}, "WORKERS"),
        ({**WORLD, "WORKERS": "2"}, "JOB_COMPLETION_INDEX=2 is not below WORKERS=2"),
        ({**WORLD, "WORKERS": "two"}, "two"),
        ({**WORLD, "WORKER_ADDRESS": "holdfast-worker:2222"}, "no {index}"),
    ],
)
def test_a_place_that_does_not_exist_is_refused(environment: dict[str, str], named: str) -> None:
    """An index outside of the world is refused. Guards against a Job that was scaled in one place only and trains in
    several worlds on one directory."""
    done = launch(sys.executable, "-c", SHOW, JOB_COMPLETION_INDEX="2", **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_no_command_is_wrong_use() -> None:
    """An empty command is wrong use. Guards against a traceback of os.execvp."""
    done = launch(JOB_COMPLETION_INDEX="0", **WORLD)
    assert (done.returncode, done.stderr) == (2, "launch.py: no command given\n")
