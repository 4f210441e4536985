"""From what a user writes to a run directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast_storage.errors import InvalidRequest
from holdfast_storage.store import normalise, open_store


def test_local_directories_have_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers that name one directory differently, and are told that their runs differ."""
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    monkeypatch.chdir(tmp_path)
    expected = f"{os.path.realpath(real)}/run"
    for name in (real / "run", f"{real}/run/", f"{real}//x/../run", "real/run", "./link/run", f"file://{real}/run"):
        assert normalise(name) == expected
        assert open_store(name).url == expected
    assert normalise(expected) == expected


@pytest.mark.parametrize(
    "url", ["memory://a/b", "memory:///a/b", "memory://a/b/", "MEMORY://a//b", "memory://a/c/../b"]
)
def test_memory_directories_have_one_name(url: str) -> None:
    """The same for memory."""
    assert normalise(url) == "memory://a/b"


def test_memory_is_shared_within_the_process(tmp_path: Path) -> None:
    """A test whose workers each have a memory of their own."""
    open_store(f"memory:/{tmp_path}").write("a", [b"x"])
    assert open_store(f"memory://{tmp_path}").read("a") == b"x"


@pytest.mark.parametrize("url", ["/tmp/a[1]/run", "/tmp/run*", "file:///tmp/a?b", "memory://a[1]"])
def test_patterns_are_refused(url: str) -> None:
    """A run that saves well, and in which stock TensorFlow finds nothing (latest_checkpoint is then None)."""
    with pytest.raises(InvalidRequest, match="latest_checkpoint would not find"):
        open_store(url)


@pytest.mark.parametrize("url", ["s3://bucket/run", "gs://bucket/run", "sftp://host/run"])
def test_other_protocols_are_named(url: str) -> None:
    """A URL taken for a local path: everything saved below `./s3:`."""
    with pytest.raises(InvalidRequest, match=r"(s3|gs|sftp):// is not supported"):
        open_store(url)


@pytest.mark.parametrize("url", ["", "/", "memory://", "file:///"])
def test_no_folder_at_all(url: str) -> None:
    """A root as run directory."""
    with pytest.raises(InvalidRequest):
        open_store(url)


def test_options_for_a_local_path_are_refused(tmp_path: Path) -> None:
    """Credentials that a user believes to be in use."""
    with pytest.raises(InvalidRequest, match="storage_options"):
        open_store(tmp_path, {"key": "x"})


def test_opening_touches_nothing(tmp_path: Path) -> None:
    """A reader that makes the directory which it misspelt."""
    store = open_store(tmp_path / "run")
    assert store.list() == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("url", ["/tmp/\0", "/tmp/\udcff", "memory://\udcff"])
def test_names_that_cannot_be_sent(url: str) -> None:
    """A path in another encoding came to light as a UnicodeEncodeError of the protocol, workers having joined."""
    with pytest.raises(InvalidRequest, match="cannot be used"):
        open_store(url)
