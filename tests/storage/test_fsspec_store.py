"""A run directory on a backend that fsspec knows and Holdfast knows nothing of."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from holdfast_storage.errors import SaveFailed, StorageError
from holdfast_storage.store import open_store
from holdfast_storage.store.fsspec_store import FsspecStore
from support.stores import PlainFileSystem, new_store


@pytest.fixture
def store(tmp_path: Path) -> FsspecStore:
    store = open_store(f"plain://{tmp_path}/run")
    assert isinstance(store, FsspecStore)
    return store


def test_what_is_not_protected_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A backend without an atomic create gives exactly one warning. Guards against two coordinators that overwrite each
    other's commits without a word, and a log full of warnings."""
    with caplog.at_level(logging.WARNING, "holdfast.storage"):
        for _ in range(3):
            open_store(f"plain://{tmp_path}/run")
            new_store("memory", tmp_path)
            open_store(tmp_path / "run")
    (record,) = caplog.records
    assert record.getMessage().startswith(f"plain://{tmp_path}/run: plain:// has no atomic create")


def test_a_backend_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreachable backend ends in a StorageError that names the URL. Guards against a library's own error or
    traceback."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(PlainFileSystem, "__init__", refuse)
    with pytest.raises(StorageError, match=r"Could not open plain://\S*/run: .*Connection refused"):
        open_store(f"plain://{tmp_path}/run")


def test_unreadable_is_not_missing(store: FsspecStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that cannot be looked at is not called missing. Guards against an existing object that is overwritten
    because `exists` says no."""
    store.create("log/1", b"first")

    def fail(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(PlainFileSystem, "info", fail)
    for call in (lambda: store.create("log/1", b"second"), lambda: store.write("log/1", []), lambda: store.size("a")):
        with pytest.raises(StorageError, match="Permission denied"):
            call()
    monkeypatch.undo()
    assert store.read("log/1") == b"first"


def test_what_the_caller_raises_stays_what_it_is(store: FsspecStore) -> None:
    """An error of the caller's chunks passes unchanged. Guards against a save that was given up, reported as a failure
    of the storage."""

    def chunks() -> object:
        yield b"x"
        raise SaveFailed("given up")

    with pytest.raises(SaveFailed, match="given up"):
        store.write("a", chunks())


def test_large_objects_go_in_chunks(store: FsspecStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large objects are written chunk by chunk. Guards against a second copy of the whole object in memory."""
    seen = []
    opened = PlainFileSystem._open

    def watched(self: PlainFileSystem, *args: object, **kwargs: object) -> object:
        file = opened(self, *args, **kwargs)
        write = file.write
        monkeypatch.setattr(file, "write", lambda data: (seen.append(len(data)), write(data))[1], raising=False)
        return file

    monkeypatch.setattr(PlainFileSystem, "_open", watched)
    assert store.write("a/b", [bytes(1000)] * 5) == 5000
    assert seen == [1000] * 5
