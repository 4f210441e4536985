"""What a job that goes well writes to its terminal: nothing of gRPC's."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from holdfast_storage.store import Store
from support.light_job import Start, expect, joined, tell
from support.ports import free_address

pytestmark = pytest.mark.processes

GRPC = re.compile(r"[IWEF][0-9]{4} [0-9:.]+ +[0-9]+ ")
"""How its lines begin: level and date, time, thread."""


def test_a_coordinator_that_is_reached_by_a_host_name(start: Start, store: Store) -> None:
    """Workers join, save and leave, and a person asks, by a name that the coordinator's certificate does not hold.
    Guards against an error in the log for each connection, of which nothing is wrong."""
    address = free_address().replace("127.0.0.1", "localhost")
    coordinator = start("-m", "holdfast.cli", "coordinator", "--root", os.path.dirname(store.url), "--listen", address)
    coordinator.expect(f"listens on {address}")
    workers = joined(start, store, 2, address)
    tell(workers, "save 1")
    expect(workers, "step 1: committed")
    status = [sys.executable, "-m", "holdfast.cli", "status", store.url]
    asked = subprocess.run(status, capture_output=True, text=True, timeout=60, check=True)
    tell(workers, "close")
    for worker in workers:
        assert worker.wait() == 0
    coordinator.kill()
    lines = [line for child in [coordinator, *workers] for line in child.output] + asked.stderr.splitlines()
    assert [line for line in lines if GRPC.match(line)] == []
