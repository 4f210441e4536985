"""Coordinators and workers that end with the test, and nothing left behind by it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import holdfast.session.session
import holdfast_coordinator.driver
import holdfast_coordinator.server
from holdfast_storage.store import Store
from support.coordinators import Coordinator, StartCoordinator
from support.light_worker import LightWorker, World, cluster_of
from support.passing_time import PassingTime
from support.stores import KINDS, new_store


@pytest.fixture(autouse=True)
def passing(monkeypatch: pytest.MonkeyPatch) -> PassingTime:
    """Of all that runs in this process."""
    return PassingTime.installed(monkeypatch)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks that tick often: what happens does not change, only how long one waits for it."""
    monkeypatch.setattr(holdfast_coordinator.driver, "TICK", 0.02)
    monkeypatch.setattr(holdfast_coordinator.driver, "IDLE_TICK", 0.02)
    monkeypatch.setattr(holdfast_coordinator.server, "GRACE", 0.05)
    monkeypatch.setattr(holdfast.session.session, "BEAT", 0.2)


@pytest.fixture(autouse=True)
def nothing_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Threads, listening sockets, unheard exceptions of asyncio: each of them adds up in a job of weeks."""
    before = set(threading.enumerate())
    yield
    errors = [r.getMessage() for r in caplog.get_records("call") if r.name == "asyncio" and r.levelno >= logging.ERROR]
    assert not errors
    end = time.monotonic() + 10.0
    while left := [t.name for t in set(threading.enumerate()) - before if t.name.startswith("holdfast")]:
        assert time.monotonic() < end, f"{left} go on"
        time.sleep(0.01)
    connections = psutil.Process(os.getpid()).net_connections("tcp")
    assert not [c for c in connections if c.status == psutil.CONN_LISTEN]


@pytest.fixture(params=KINDS)
def each_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A run directory on each kind of storage."""
    return new_store(request.param, tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store("posix", tmp_path)


@pytest.fixture
def start(nothing_left: None) -> Iterator[StartCoordinator]:
    """Starts coordinators."""
    started: list[Coordinator] = []

    def start(listen: str = "127.0.0.1:0", **options: Any) -> Coordinator:
        started.append(Coordinator(listen, **options))
        return started[-1]

    yield start
    for coordinator in started:
        coordinator.stop()


@pytest.fixture
def coordinator(start: StartCoordinator) -> Coordinator:
    return start()


@pytest.fixture
def insecure(start: StartCoordinator) -> Coordinator:
    """A coordinator that admits everybody, so that calls can be made by hand."""
    return start(insecure=True)


@pytest.fixture
def world(store: Store, start: StartCoordinator) -> Iterator[World]:
    """Makes all workers of a cluster, which have not joined yet."""
    made: list[LightWorker] = []

    def world(size: int, coordinator: Coordinator | str = "", **options: object) -> list[LightWorker]:
        address = coordinator if isinstance(coordinator, str) else coordinator.address
        cluster = options.pop("cluster", None) or cluster_of(size)
        where = options.pop("store", store)
        workers = [LightWorker(where, n, cluster, coordinator=address, **options) for n in range(size)]  # type: ignore[arg-type]
        made.extend(workers)
        return workers

    yield world
    for worker in reversed(made):  # the chief last: the coordinator may be in it
        if not worker.session._closed.is_set():
            worker.close(patience=0.0)
        elif worker.session._attendance is not None:
            worker.session._attendance.join(10.0)
