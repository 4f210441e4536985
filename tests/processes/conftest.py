"""Programs that end with the test, and coordinators among them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from holdfast_storage.store import Store, open_store
from support.child import PATIENCE, Child
from support.light_job import Start
from support.ports import free_address


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "run")


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts programs."""
    children: list[Child] = []

    def start(*arguments: object, prefix: Sequence[str] = (), patience: float = PATIENCE, **environment: str) -> Child:
        children.append(Child([str(a) for a in arguments], environment, prefix, patience))
        return children[-1]

    yield start
    for child in children:
        child.end()


@pytest.fixture
def address() -> str:
    return free_address()


@pytest.fixture
def coordinate(start: Start, store: Store, address: str) -> Callable[[], Child]:
    """Starts a coordinator at `address`."""

    def coordinate() -> Child:
        command = ["-m", "holdfast.cli", "coordinator", "--root", os.path.dirname(store.url), "--listen", address]
        child = start(*command)
        child.expect(f"listens on {address}")
        return child

    return coordinate
