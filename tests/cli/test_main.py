"""The command line as a whole."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Holdfast = Callable[..., Result]


def test_help_names_every_command(holdfast: Holdfast) -> None:
    """The help names every command. Guards against a command that nobody finds."""
    result = holdfast("--help")
    assert result.exit_code == 0
    for command in ("ls", "show", "verify", "status", "gc", "diff", "cp", "coordinator", "demo", "demo-ps"):
        assert f"\n  {command} " in result.output


def test_help_imports_neither_tensorflow_nor_grpc() -> None:
    """The help imports neither TensorFlow nor gRPC. Guards against seconds of import for a line of help."""
    program = (
        "import sys\n"
        "from holdfast.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "sys.exit(', '.join({'tensorflow', 'keras', 'grpc', 'numpy'} & set(sys.modules)) or 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.stderr == ""
    assert result.returncode == 0


@pytest.mark.parametrize("arguments", [["sl"], ["ls"], ["ls", "--jason", "."], ["show"], ["coordinator"]])
def test_wrong_use_is_status_2(holdfast: Holdfast, arguments: list[str]) -> None:
    """Wrong use gives status 2. Guards against a script that cannot tell its own mistake from a damaged checkpoint."""
    result = holdfast(*arguments)
    assert result.exit_code == 2
    assert "Usage: holdfast" in result.stderr


@pytest.mark.parametrize("command", ["ls", "show", "verify", "status"])
@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("absent", "absent does not exist"),
        ("file", "file is a file, not a directory"),
        ("empty", "empty: nothing is there"),
        ("other", "other: neither a checkpoint nor a log"),
        ("nope://host/run", "nope:// is not known"),
    ],
)
def test_a_run_that_is_none(holdfast: Holdfast, tmp_path: Path, command: str, run: str, expected: str) -> None:
    """A path without a run gives one sentence and status 2. Guards against a traceback or, worse, an empty list and
    status 0."""
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    result = holdfast(command, run if "://" in run else tmp_path / run)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("holdfast: ")
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1
