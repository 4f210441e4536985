"""The programs of `examples/`, as a reader would run them: each is killed in the middle, and goes on where it was."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store
from support.child import TESTS, Child
from support.ports import free_address, free_port

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]

EXAMPLES = TESTS.parent / "examples"
QUIET = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}


@pytest.fixture
def start() -> Iterator[Any]:
    """Start an example: `start("name.py", argument, ...)`, a process for each environment. They end with the test."""
    with ExitStack() as children:

        def begin(name: str, *arguments: object, environments: Sequence[Mapping[str, str]] = ({},)) -> list[Child]:
            started = []
            for environment in environments:
                child = Child([str(EXAMPLES / name), *map(str, arguments)], {**QUIET, **environment}, patience=240.0)
                children.callback(child.end)
                started.append(child)
            return started

        yield begin


def cluster(workers: int) -> list[dict[str, str]]:
    """The environments of the workers of a cluster; that of one worker names none."""
    addresses = {"worker": [free_address() for _ in range(workers)]}
    tasks = [{"type": "worker", "index": index} for index in range(workers)]
    return [{"TF_CONFIG": json.dumps({"cluster": addresses, "task": task})} for task in tasks] if workers > 1 else [{}]


def slurm() -> list[dict[str, str]]:
    """The environments of two tasks of a job step on one node."""
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_TASKS_PER_NODE": "2"}
    return [step | {"SLURM_PROCID": str(rank), "CUDA_VISIBLE_DEVICES": "-1,-1"} for rank in range(2)]


def finish(children: Sequence[Child]) -> list[str]:
    """Wait until all have ended well; what the first has printed."""
    for child in children:
        assert child.wait() == 0, "\n".join(child.output)
    return children[0].output


def kill(children: Sequence[Child], when: str) -> None:
    """SIGKILL all as soon as the first one prints a text."""
    children[0].expect(when)
    for child in children:
        child.kill()


def steps(output: Sequence[str]) -> dict[int, str]:
    """What an example has printed of each step."""
    found = (re.search(r"step:? +(\d+)\b(.*)", line) for line in output)
    return {int(each[1]): each[2] for each in found if each}


@pytest.mark.parametrize("workers", [1, 2])
def test_custom_loop(start: Any, tmp_path: Path, workers: int) -> None:
    """The custom loop, killed and started again, has the losses of an uninterrupted run, to the last digit that it
    prints. Guards against an example that loses its place, or its input's."""
    whole = steps(finish(start("custom_loop.py", tmp_path / "whole", "--steps", 100, environments=cluster(workers))))
    kill(start("custom_loop.py", tmp_path / "run", "--steps", 100, environments=cluster(workers)), "step 70:")
    resumed = finish(start("custom_loop.py", tmp_path / "run", "--steps", 100, environments=cluster(workers)))
    (begun,) = [int(line.split()[-1]) for line in resumed if line.startswith("starts at step")]
    assert begun in {40, 60}  # the save of step 60 has begun, so that of step 40 is committed
    again = steps([line for line in resumed if line.startswith("step")])
    assert again == {step: loss for step, loss in whole.items() if step > begun}
    assert len(again) == 100 - begun


@pytest.mark.parametrize(("name", "workers"), [("keras_fit.py", 1), ("keras_fit.py", 2), ("tf_keras_fit.py", 2)])
def test_fit(start: Any, tmp_path: Path, name: str, workers: int) -> None:
    """Keras's fit, killed in an epoch and started again, prints the losses of an uninterrupted run. Guards against an
    example that begins the epoch anew."""
    whole = epochs(finish(start(name, tmp_path / "whole", environments=cluster(workers))))
    children = start(name, tmp_path / "run", environments=cluster(workers))
    kill(children, "Epoch 4/5")
    again = epochs(finish(start(name, tmp_path / "run", environments=cluster(workers))))
    assert len(whole) == 5
    assert again
    assert whole[-len(again) :] == again
    assert len(again) < 5
    assert len(list((tmp_path / "run" / "best").glob("ckpt-*"))) == 1


def epochs(output: Sequence[str]) -> list[str]:
    """The losses that Keras has printed, one an epoch."""
    return [each[1] for line in output if (each := re.search(r"/28 - .*loss: ([\d.]+)", line))]


def test_slurm(start: Any, tmp_path: Path) -> None:
    """A Slurm job, killed and requeued, goes on as one world. Guards against tasks that each take themselves for a job
    of their own."""
    arguments = (tmp_path / "run", "--steps", 60, "--port")
    kill(start("slurm.py", *arguments, free_port(2), environments=slurm()), "step 50:")
    tasks = start("slurm.py", *arguments, free_port(2), environments=slurm())
    resumed = finish(tasks)
    begun = [line for task in tasks for line in task.output if " starts at step " in line]
    assert begun in [[f"worker-{rank} starts at step {step}" for rank in (0, 1)] for step in (20, 40)]
    assert list(steps(resumed))[-1] == 60
    assert len(list((tmp_path / "run").glob("ckpt-60.*/*.index"))) == 1


def test_orbit(start: Any, tmp_path: Path) -> None:
    """orbit's Controller, killed and started again, goes on from a step that was saved. Guards against a manager that
    it does not take."""
    kill(start("orbit_controller.py", tmp_path / "run", "--steps", 200), "step:    110 ")
    resumed = finish(start("orbit_controller.py", tmp_path / "run", "--steps", 200))
    (begun,) = [int(step) for line in resumed for step in re.findall(r"ckpt-(\d+)$", line) if "restored" in line]
    assert begun >= 70
    assert list(steps(resumed))[-1] == 200


def test_warm_start(start: Any, tmp_path: Path) -> None:
    """The larger model begins with the smaller one's layers, once. Guards against an `init_fn` that is called again and
    throws away what the larger one has learnt."""
    arguments = (tmp_path / "five", tmp_path / "six")
    kill(start("warm_start.py", *arguments), "six: starts anew")
    kill(start("warm_start.py", *arguments), "six: ends")
    resumed = finish(start("warm_start.py", *arguments))
    (line,) = [line for line in resumed if "six: starts" in line]
    assert float(line.split()[-1]) > 0.9
    assert "ckpt-" in line


def test_evaluator(start: Any, tmp_path: Path) -> None:
    """The evaluator reads what another job trains, the last checkpoint included, and ends. Guards against an evaluator
    that meets a half, or leaves a lease behind that keeps an old checkpoint."""
    (evaluator,) = start("evaluator.py", tmp_path / "run", "--timeout", 45)
    finish(start("custom_loop.py", tmp_path / "run", "--steps", 200))
    found = steps(finish([evaluator]))
    assert list(found)[-1] == 200
    assert list(found) == sorted(found)
    assert float(found[200].split()[-1]) > 0.9
    state = read_run(open_store(str(tmp_path / "run")))
    assert state is not None
    assert not state.leases


def test_recommender(start: Any, tmp_path: Path) -> None:
    """The cluster that the recommender starts ends with its chief, killed or not; started again, it goes on from a
    save. Guards against servers that stay on the machine, and embeddings that begin anew."""
    (chief,) = start("recommender.py", tmp_path / "run", "--steps", 300)
    others = [int(chief.expect("is process").split()[-1]) for _ in range(3)]
    kill([chief], "step 200:")
    psutil.wait_procs([psutil.Process(pid) for pid in others if psutil.pid_exists(pid)], timeout=30)
    assert not [pid for pid in others if psutil.pid_exists(pid)]
    (chief,) = start("recommender.py", tmp_path / "run", "--steps", 300)
    resumed = finish([chief])
    (begun,) = [int(line.split()[-1]) for line in resumed if line.startswith("starts at step")]
    assert begun in {100, 150}
    last = [line for line in resumed if line.startswith("step")][-1]
    assert last.startswith("step 300: loss ")
    assert float(last.split()[-1]) < 0.21  # it begins with 0.25
    state = read_run(open_store(str(tmp_path / "run")))
    assert state is not None
    assert state.checkpoints[-1].step == 300
    export(tmp_path)


def export(folder: Path) -> None:
    """Export what the parameter servers have saved, and compare it with what TensorFlow reads."""
    import numpy as np
    import tensorflow as tf
    from safetensors.numpy import load_file

    (folder / "made.py").write_text(
        f"import sys\nsys.path.insert(0, {str(EXAMPLES)!r})\nimport recommender\nimport tensorflow as tf\n"
        "def model():\n    made = recommender.Recommender()\n    made(tf.zeros((1, 2), tf.int64))\n    return made\n"
    )
    command = [sys.executable, "-m", "holdfast.cli", "export", "run", "out.safetensors", "--model", "made:model"]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **QUIET}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = load_file(folder / "out.safetensors")
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(folder / "run")))
    keys = [key for key in reader.get_variable_to_shape_map() if key.startswith("model/")]
    kept = [reader.get_tensor(key) for key in keys]
    for name, value in found.items():
        assert any(np.array_equal(value, each) for each in kept), name
    assert sorted(each.shape for each in found.values()) == [(1,), (32,), (32, 1), (96, 32), (1000, 32), (4000, 32)]
