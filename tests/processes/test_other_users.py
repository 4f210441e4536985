"""Another user of the host, who can read all of a job's run directory but its key."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from holdfast_storage.store import Store, open_store
from support.light_job import PROGRAMS, Start, expect, joined, tell
from support.light_worker import committed
from support.other_user import as_user

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start programs of other users"),
]

OWNER, NEIGHBOUR = 2111, 2112


@pytest.fixture
def store() -> Iterator[Store]:
    """A run directory that everybody may read."""
    with tempfile.TemporaryDirectory(prefix="other-users-") as folder:
        os.chown(folder, OWNER, OWNER)
        os.chmod(folder, 0o755)
        yield open_store(Path(folder, "run"))


def user(start: Start, number: int) -> Start:
    return partial(start, prefix=as_user(number, [number], 0o022), HOME="/tmp", PYTHONDONTWRITEBYTECODE="1")


@pytest.mark.parametrize(("size", "ports"), [(1, 0), (2, 1)])
def test_a_neighbour(start: Start, store: Store, size: int, ports: int) -> None:
    """A job of one worker listens to no port, and another user is refused at its socket, as at the port of one of
    several. Guards against a neighbour who has a job delete its user's files, or who joins it."""
    workers = joined(user(start, OWNER), store, size)
    tell(workers, "save 1")
    expect(workers, "step 1: committed")
    neighbour = user(start, NEIGHBOUR)(PROGRAMS / "neighbour.py", OWNER, store.url)
    neighbour.expect(f"{ports} ports")
    neighbour.expect("sockets")
    neighbour.expect("no key: ")
    for _ in range(ports + 1):
        neighbour.expect("does not prove that it reads the key")
    neighbour.expect("done")
    tell(workers, "save 2")
    expect(workers, "step 2: committed")
    assert [record.step for record in committed(store)] == [1, 2]
