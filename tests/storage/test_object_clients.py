"""What the clients of object stores do beyond the store contract, on real servers."""

from __future__ import annotations

import threading

import pytest

from holdfast_storage.store import open_store
from holdfast_storage.store.object_store import ObjectStore
from servers.base import Server
from servers.fixtures import KINDS
from servers.fixtures import ObjectStore as Servers


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, object_store: Servers) -> Server:
    return object_store(request.param)


@pytest.fixture
def store(server: Server) -> ObjectStore:
    place = server.location()
    store = open_store(place.url, place.storage_options)
    assert isinstance(store, ObjectStore)
    return store


def test_listings_of_several_pages(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of which only the first thousand entries are seen; a folder of which as many are deleted."""
    monkeypatch.setattr(store._client, "page_size", 3, raising=True)
    for number in range(5):
        store.create(f"log/{number}", b"")
        store.create(f"log/folder-{number}/x", b"")
    assert store.list("log") == sorted(f"{n}" for n in range(5)) + sorted(f"folder-{n}/" for n in range(5))
    store.delete_folder("log")
    assert store.list() == []


def test_large_creates_are_exclusive(store: ObjectStore) -> None:
    """An index of many tensors, sent in parts, at whose end some stores forget the condition."""
    size = 101 << 20
    start = threading.Barrier(3)
    won: list[int] = []

    def create(who: int) -> None:
        start.wait()
        if store.create("index", bytes([who]) * size):
            won.append(who)

    threads = [threading.Thread(target=create, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert not store.create("index", bytes(size))
    assert store.read("index", size - 3) == bytes([won[0]]) * 3
    assert store.size("index") == size


def test_strange_names(store: ObjectStore) -> None:
    """A name that comes back in another form than it was given."""
    for name in ("a b/c+d", "per%20cent/%", "ü/日本", "a&b=c/#1", "quo\"te'/`~!$^(){}|;:,<>"):
        assert store.create(name, name.encode())
        assert store.read(name) == name.encode()
        assert store.size(name) == len(name.encode())
        folder, _, base = name.partition("/")
        assert store.list(folder) == [base]
        store.delete_folder(folder)
        assert store.list() == []
