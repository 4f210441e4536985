"""How tests are shared between processes: what the tests of the product rely on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DEADLINE_S = 60.0


@pytest.mark.processes
@pytest.mark.parametrize("at", [0, 5])
def test_a_process_that_dies_fails_one_test(tmp_path: Path, at: int) -> None:
    """A test during which its process dies has failed, once, and all others run. Guards against a run that waits for
    ever, or repeats that test until it passes."""
    for group in range(6):
        tests = "".join(f"def test_{number}(): pass\n" for number in range(3))
        (tmp_path / f"test_of_{group}.py").write_text(tests)
    dying = "import os\ndef test_0(): pass\ndef test_1(): os._exit(3)\ndef test_2(): pass\n"
    (tmp_path / f"test_of_{at}.py").write_text(dying)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "support.groups", "-p", "no:cacheprovider", "-n2", tmp_path],
        env={"PATH": "", "PYTHONPATH": str(TESTS)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert "1 failed, 17 passed" in ended.stdout.splitlines()[-1]
    assert f"crashed while running 'test_of_{at}.py::test_1'" in ended.stdout
