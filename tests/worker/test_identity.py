"""Which process this is."""

from __future__ import annotations

import os

import pytest

import holdfast.session.identity
from holdfast.session.identity import process_id
from holdfast_protos.proofs import PROCESS_DIGITS


def test_it_stays_as_long_as_the_process() -> None:
    """The id stays the same in one process. Guards against two managers of one process that are taken for two jobs."""
    assert process_id() == process_id()
    assert len(process_id()) == PROCESS_DIGITS


def test_a_fork_has_another() -> None:
    """A fork has another id. Guards against a new worker that is taken for the one that crashed."""
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
    """A process that was restored from a checkpoint of itself has another id. Guards against two restored processes
    with all memory and the process number of the first."""
    mine = process_id()
    pid, _, boot = holdfast.session.identity._of_kernel()
    monkeypatch.setattr(holdfast.session.identity, "_of_kernel", lambda: (pid, b"started later", boot))
    assert process_id() != mine
