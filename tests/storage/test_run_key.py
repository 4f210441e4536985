"""The key of a run: made once, private, and never taken for one if it is none."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from holdfast_storage.errors import StorageError
from holdfast_storage.layout import KEY
from holdfast_storage.parallel import in_parallel
from holdfast_storage.run_key import SIZE, ensure_key, read_key
from holdfast_storage.store import open_store
from support.stores import KINDS, new_store


@pytest.mark.parametrize("kind", KINDS)
def test_all_get_the_same_key(kind: str, tmp_path: Path) -> None:
    """Workers that start together have one key. Guards against two halves of a world that do not know each other."""
    store = new_store(kind, tmp_path)
    assert read_key(store) is None
    assert store.list() == [], "looking for it makes nothing"
    keys = set(in_parallel(lambda _: ensure_key(store), range(8), 8))
    assert keys == {read_key(store)}
    assert {len(key) for key in keys} == {SIZE}


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    """The key's file is private, and in a folder whose group sticks the group's. Guards against another user of the
    host who reads it."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2770)
    for folder, mode in ((tmp_path / "own", 0o600), (tmp_path / "shared" / "run", 0o640)):
        ensure_key(open_store(folder))
        assert stat.S_IMODE((folder / KEY).stat().st_mode) == mode


@pytest.mark.parametrize(
    "text", [b"", b"0" * 64, b"0" * 63 + b"\n", b"G" * 64 + b"\n", b"0" * 64 + b"\n\n", b"0" * (1 << 20)]
)
def test_what_is_no_key(tmp_path: Path, text: bytes) -> None:
    """A file that is no key is an error that says what to do. Guards against an empty key, which everybody knows."""
    store = open_store(tmp_path / "run")
    store.create(KEY, text)
    for read in (read_key, ensure_key):
        with pytest.raises(StorageError, match=KEY):
            read(store)
    assert store.read(KEY) == text
