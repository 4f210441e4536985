"""A model that tensorflow-model-optimization has pruned keeps its zeros, through a kill and an export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from support.bridged import holdfast
from support.child import TESTS, Child

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.processes,
    pytest.mark.filterwarnings("ignore"),
]

QUIET = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", "TF_USE_LEGACY_KERAS": "1"}


@pytest.fixture
def children() -> Iterator[ExitStack]:
    with ExitStack() as children:
        yield children


def test_zeros_survive(children: ExitStack, tmp_path: Path) -> None:
    """Three quarters of the weights are zero after a kill, a resume, a strip and an export, and the model that is
    exported has nothing of the pruning any more. Guards against masks that begin anew, and dense models on devices."""

    def start() -> Child:
        child = Child([str(TESTS / "bridges" / "programs" / "pruned.py"), str(tmp_path)], QUIET, patience=240.0)
        children.callback(child.end)
        return child

    first = start()
    first.expect("saved 2")
    first.kill()
    again = start()
    assert again.wait() == 0, "\n".join(again.output)
    assert "starts at 2" in again.output
    for name in ("m.safetensors", "m.tflite", "m.keras"):
        done = holdfast("export", tmp_path / "stripped", tmp_path / name)
        assert done.exit_code == 0, done.output
    from ai_edge_litert.interpreter import Interpreter
    from safetensors.numpy import load_file

    values = load_file(tmp_path / "m.safetensors")
    assert sorted(values) == ["a/bias", "a/kernel", "b/bias", "b/kernel"]
    assert {name: float((values[name] == 0).mean()) for name in ("a/kernel", "b/kernel")} == {
        "a/kernel": 0.75,
        "b/kernel": 0.75,
    }
    x = np.random.RandomState(1).randn(1, 8).astype(np.float32)
    interpreter = Interpreter(str(tmp_path / "m.tflite"))
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], x)
    interpreter.invoke()
    expected = np.maximum(x @ values["a/kernel"] + values["a/bias"], 0) @ values["b/kernel"] + values["b/bias"]
    assert np.abs(interpreter.get_tensor(wanted["index"]) - expected).max() < 1e-5
