"""Decisions on saves that are asked for: one object for each, created once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast_storage.deciding import decide, remove_decisions
from holdfast_storage.decision import CANCEL, SAVE, Decision
from holdfast_storage.errors import StorageError
from holdfast_storage.layout import decision_object
from holdfast_storage.store import Store
from support.overwriting_store import OverwritingStore
from support.stores import KINDS, new_store

GENERATION = "0123abcd"
SAVED = Decision(1, SAVE, 44, True, "SIGTERM on worker-1", 29.5)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return new_store(request.param, tmp_path)


def test_the_first_stands(store: Store) -> None:
    """What was created first is what everybody gets. Guards against workers that follow different decisions."""
    assert decide(store, GENERATION, SAVED) == SAVED
    assert decide(store, GENERATION, Decision(1, CANCEL)) == SAVED
    assert decide(store, GENERATION, Decision(2, CANCEL)) == Decision(2, CANCEL)


class Lost:
    """A store whose create has no known outcome."""

    def __init__(self, store: Store, *, made: bool) -> None:
        self.url, self.local, self.read, self._store, self._made = store.url, store.local, store.read, store, made

    def create(self, name: str, data: bytes) -> bool:
        if self._made:
            self._store.create(name, data)
        raise StorageError("no answer")


def test_a_lost_answer(store: Store) -> None:
    """What stands there is read; that nothing is there settles nothing. Guards against a create that lands after
    somebody has taken its absence for an answer."""
    with pytest.raises(StorageError, match="may have been made or not"):
        decide(Lost(store, made=False), GENERATION, SAVED)  # type: ignore[arg-type]
    assert decide(Lost(store, made=True), GENERATION, SAVED) == SAVED  # type: ignore[arg-type]


def test_a_server_without_conditions(store: Store) -> None:
    """What stands there is not replaced, even where a create would. Guards against a worker that has waited for too
    long, and undoes what the others have heard."""
    server: Any = OverwritingStore(store)
    server.local = False
    assert decide(server, GENERATION, SAVED) == SAVED
    assert decide(server, GENERATION, Decision(1, CANCEL)) == SAVED


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"number": 2, "verb": "save", "boundary": 44, "exits": true, "reason": "", "seconds": 0}',
        b'{"number": 1, "verb": "dance", "boundary": 44, "exits": true, "reason": "", "seconds": 0}',
        b'{"number": 1, "verb": "save", "boundary": -1, "exits": true, "reason": "", "seconds": 0}',
        b'{"number": 1, "verb": "save", "boundary": 44, "exits": 1, "reason": "", "seconds": 0}',
        b'{"number": 1, "verb": "save", "boundary": 44, "exits": true, "reason": "", "seconds": 1e99}',
        b'{"number": 1, "verb": "save"}',
    ],
)
def test_what_is_no_decision(tmp_path: Path, data: bytes) -> None:
    """It is an error that names the object. Guards against a loop that stops at a boundary of nonsense."""
    store = new_store("posix", tmp_path)
    store.create(decision_object(GENERATION, 1), data)
    with pytest.raises(StorageError, match="is no decision"):
        decide(store, GENERATION, SAVED)


def test_decisions_are_removed(store: Store) -> None:
    """Those of generations that are superseded go, and no others. Guards against folders that only grow, and against a
    loop that waits for a decision that was removed."""
    for generation in (GENERATION, "89abcdef"):
        decide(store, generation, SAVED)
    remove_decisions(store, [GENERATION])
    assert decide(store, GENERATION, Decision(1, CANCEL)).verb == CANCEL
    assert decide(store, "89abcdef", Decision(1, CANCEL)) == SAVED
