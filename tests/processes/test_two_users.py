"""A coordinator and workers of two users, who have nothing in common but a group and a folder."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from holdfast_storage.cluster import Task
from holdfast_storage.layout import KEY, OWN_FOLDER
from holdfast_storage.store import open_store
from support.child import Child
from support.committed import commit_run
from support.light_job import Start, expect, joined, tell, worker
from support.light_worker import committed, until
from support.other_user import as_user
from support.ports import free_address

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start programs of other users"),
]

GROUP, COORDINATOR, WORKERS = 2100, 2101, 2102


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that all users can reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="two-users-") as folder:
        os.chmod(folder, 0o755)
        root = Path(folder, "root")
        root.mkdir()
        os.chown(root, 0, GROUP)
        yield root


def user(start: Start, number: int, umask: int) -> Start:
    """Starts programs of a user who is in the group."""
    return partial(start, prefix=as_user(number, [GROUP], umask), HOME="/tmp", PYTHONDONTWRITEBYTECODE="1")


def coordinated(start: Start, root: Path, umask: int) -> tuple[Child, str]:
    address = free_address()
    child = user(start, COORDINATOR, umask)("-m", "holdfast.cli", "coordinator", "--root", root, "--listen", address)
    child.expect(f"listens on {address}")
    return child, address


@pytest.mark.parametrize("umasks", [(0o022, 0o022), (0o077, 0o077), (0o002, 0o022)], ids=str)
def test_two_users_share_a_setgid_folder(start: Start, root: Path, umasks: tuple[int, int]) -> None:
    """In a folder with the setgid bit, saves of the workers are committed by a coordinator of another user, which also
    removes what is replaced; whatever the umasks. Guards against a first save that fails in its middle, with a folder
    that the coordinator cannot complete, and a disk that fills since it cannot remove them."""
    root.chmod(0o2770)
    coordinator, address = coordinated(start, root, umasks[0])
    store = open_store(root / "run")
    workers = joined(user(start, WORKERS, umasks[1]), store, 2, address, max_to_keep=1)
    for step in (1, 2, 3):
        tell(workers, f"save {step}")
        expect(workers, f"step {step}: committed")
    until(lambda: len([name for name in store.list() if name.startswith("ckpt-")]) == 1)
    assert [record.step for record in committed(store)] == [3]
    assert not [line for line in coordinator.output if "WARNING" in line or "ERROR" in line]
    assert stat.S_IMODE((root / "run" / KEY).stat().st_mode) == 0o640
    made = [path.lstat() for path in root.rglob("*")]
    assert {status.st_uid for status in made} == {COORDINATOR, WORKERS}
    assert {status.st_gid for status in made} == {GROUP}
    if umasks == (0o077, 0o077):
        assert not [status for status in made if stat.S_IMODE(status.st_mode) & 0o007]


def test_two_users_without_a_common_folder_are_told(start: Start, root: Path) -> None:
    """Without the setgid bit, the workers of another user cannot join, and are told whose the run's key is, and what
    to do. Guards against a permission error in the middle of the first save, after an hour of training."""
    root.chmod(0o777)
    _, address = coordinated(start, root, 0o022)
    store = open_store(root / "run")
    workers = [worker(user(start, WORKERS, 0o022), store, index, 2, address) for index in range(2)]
    for each in workers:
        line = each.expect("InvalidRequest: ")
        assert f"{KEY} belongs to user {WORKERS} and group {WORKERS}, with mode 600" in line
        assert f"this is user {COORDINATOR} of groups" in line
        assert "a common group, and a run directory of that group that has mode 2770 or 2775" in line
    assert store.list() == [f"{OWN_FOLDER}/"]


def test_who_may_only_read_reads_without_a_lease(root: Path) -> None:
    """An evaluator of a user who may not write gets the checkpoints, one warning, and changes nothing. Guards against
    an exporter that needs a right which it should not have, and one that ends at the first checkpoint."""
    root.chmod(0o755)
    run = commit_run(open_store(root / "run"), [1], [Task("worker", 0)])
    before = sorted(root.rglob("*"))
    program = f"import holdfast; print(list(holdfast.checkpoints_iterator({str(root / 'run')!r}, timeout=0)))"
    command = [*as_user(WORKERS, [WORKERS], 0o022), sys.executable, "-c", program]
    environment = {**os.environ, "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"['{root}/run/{run.checkpoints[0].prefix}']\n"
    assert done.stderr.count("without a lease") == 1
    assert "Permission denied" in done.stderr
    assert sorted(root.rglob("*")) == before
