"""The command line in a run directory with what is no object: an error that names it, at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result


@pytest.fixture(autouse=True)
def no_wait() -> Iterator[None]:
    """End a command that waits."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def giant(path: Path) -> None:
    path.touch()
    os.truncate(path, 2 << 40)


PUT: dict[str, Callable[[Path], None]] = {
    "FIFO": os.mkfifo,
    "giant": giant,
    "folder": Path.mkdir,
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "/etc/shadow": lambda path: path.symlink_to("/etc/shadow"),
    "loop": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("put", PUT)
@pytest.mark.parametrize("what", ["log entry", "manifest.json", "ckpt-20.index", "ckpt-20.data-00000-of-00002"])
def test_each_command_says_what_is_wrong(saved: Any, holdfast: Callable[..., Result], what: str, put: str) -> None:
    """`verify` finds whatever is in the place of an object, and no command ends in a traceback. Guards against an
    operator's `ls` that waits for ever, takes all memory, or shows a file that is not the run's."""
    path = next(saved.path.glob("ckpt-20.*")) / what
    if what == "log entry":
        last = max((saved.path / "_holdfast" / "log").iterdir())
        path = last.with_name(f"{int(last.stem) + 1:012d}.json")
    path.unlink(missing_ok=True)
    PUT[put](path)
    for command in ("ls", "show", "verify", "status"):
        result = holdfast(command, saved.path)
        assert result.exit_code in (0, 1), result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert "root:" not in result.output
        if command == "verify":
            assert result.exit_code == 1
            assert path.name in result.output
