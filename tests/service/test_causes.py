"""What a worker is told of the coordinator's troubles leads to the coordinator's log."""

from __future__ import annotations

import logging
import re

import pytest

from holdfast_storage.errors import SaveFailed, StorageError
from holdfast_storage.store import Store
from holdfast_storage.store.base import NotCreated
from support.coordinators import Coordinator
from support.gated_store import Gate, GatedStore
from support.light_worker import World, all_join, outcomes


@pytest.mark.parametrize(
    ("part", "error"),
    [
        (".index", StorageError("Could not write /x: No space left on device")),
        (".index", RuntimeError("a mistake of ours")),
        ("_holdfast/log/", NotCreated("Could not create /x: No space left on device")),
    ],
    ids=["index", "mistake", "log"],
)
def test_an_error_names_the_line_of_the_log(
    coordinator: Coordinator, world: World, caplog: pytest.LogCaptureFixture, part: str, error: Exception
) -> None:
    """An error of the coordinator's storage, or of its own, has the id of the event that led to it, as has the line of
    its log. Guards against an error on a worker, and a log of the same minute in which nobody finds the reason."""
    workers = world(2, coordinator)
    all_join(workers)
    store = workers[0].store
    driver = coordinator.server.runs.find(store.url)
    assert driver is not None
    gate = Gate("create", part)
    gate.fail(error)
    driver.store = driver._log._store = GatedStore(store, gate)
    with caplog.at_level(logging.INFO):
        (told, same) = outcomes([worker.save(1) for worker in workers])
    assert isinstance(told, SaveFailed)
    assert str(told) == str(same)
    cause = re.search(r"\((\w+-\d+)( in its log)?\)", str(told))
    assert cause is not None, str(told)
    said = [record.getMessage() for record in caplog.records if record.name == "holdfast.coordinator"]
    assert any(f"{store.url} ({cause[1]}): " in line and str(error) in line for line in said), said


def test_what_follows_from_one_call_has_one_id(
    store: Store, coordinator: Coordinator, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The entries that a save makes are of the last call that it needed, and of another one for the next save. Guards
    against an id that ends at the first effect, or one that is for all that a process does."""
    (worker,) = world(1, coordinator)
    all_join([worker])
    with caplog.at_level(logging.INFO):
        assert outcomes([worker.save(1)]) == [None]
        assert outcomes([worker.save(2)]) == [None]
    said = [record.getMessage() for record in caplog.records]
    entries = re.findall(rf"{re.escape(store.url)} \((\w+)-(\d+)\): log entry \d+: (\w+)", "\n".join(said))
    assert [(event, kind) for event, _, kind in entries] == [
        ("vote", "import"),
        ("vote", "lead"),
        ("reported", "commit"),
        ("reported", "commit"),
    ]
    numbers = [number for _, number, _ in entries]
    assert numbers[0] == numbers[1]
    assert len(set(numbers)) == 3
