"""Which process this is."""

from __future__ import annotations

import os

import pytest

import holdfast.session.identity
from holdfast.session.identity import process_id


def test_it_stays_as_long_as_the_process() -> None:
    """Two managers of one process were taken for two jobs, and the second was refused."""
    assert process_id() == process_id()
    assert len(process_id()) == 12


def test_a_fork_has_another() -> None:
    """It was made at import and inherited: a new worker was taken for the one that had crashed."""
    mine, (read, write) = process_id(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, process_id().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 100).decode() != mine
    os.close(read)
    os.close(write)


def test_what_is_restored_from_a_checkpoint_of_itself_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was restored, perhaps twice, with all memory and the very number that it had."""
    mine = process_id()
    pid, _, boot = holdfast.session.identity._of_kernel()
    monkeypatch.setattr(holdfast.session.identity, "_of_kernel", lambda: (pid, b"started later", boot))
    assert process_id() != mine
