"""`holdfast doctor`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import Result

from holdfast.cli import examination as examine
from holdfast_storage.store.posix import PosixStore
from support.stores import PlainFileSystem

Holdfast = Callable[..., Result]
HoldfastJson = Callable[..., Any]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "LARGE_MIB", 4)


def test_a_sound_place(tmp_path: Path, holdfast: Holdfast, holdfast_json: HoldfastJson) -> None:
    """A sound storage gives plain words, figures in JSON, and status 0. Guards against a test that leaves something
    behind."""
    result = holdfast("doctor", tmp_path)
    assert result.exit_code == 0, result.output
    assert "had exactly one winner each" in result.stdout
    assert result.stdout.endswith(f"{tmp_path} does everything that Holdfast needs\n")
    document = holdfast_json("doctor", tmp_path)
    assert document["good"]
    assert {check["verdict"] for check in document["checks"]} <= {"works", "slow"}
    assert not list(tmp_path.iterdir())


def test_an_unsafe_place(
    tmp_path: Path, holdfast: Holdfast, holdfast_json: HoldfastJson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storage that could lose something gives status 1. Guards against a script that starts a run of a week on it."""
    monkeypatch.setattr(PosixStore, "create", lambda self, name, data: self.replace(name, data) or True)
    result = holdfast("doctor", tmp_path)
    assert result.exit_code == 1
    assert "NOT PROTECTED exclusive create" in result.stdout
    assert result.stdout.endswith(f"{tmp_path} is safe only for one coordinator at a time: see exclusive create\n")
    assert not holdfast_json("doctor", tmp_path, status=1)["good"]


def test_a_place_that_does_not_work(tmp_path: Path, holdfast: Holdfast, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that loses bytes is called unusable. Guards against a bucket that is called good enough for one
    coordinator."""
    monkeypatch.setattr(PosixStore, "read_into", lambda self, name, offset, buffer: 0)
    result = holdfast("doctor", tmp_path)
    assert result.exit_code == 1
    assert result.stdout.endswith(f"{tmp_path} cannot hold a run as it is: see large object\n")


def test_a_backend_without_exclusive_create(
    tmp_path: Path, holdfast: Holdfast, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing atomic create is reported once. Guards against the same sentence three times, once as a finding and
    twice in the log."""
    assert fsspec.get_filesystem_class("plain") is PlainFileSystem
    result = holdfast("doctor", f"plain://{tmp_path}")
    assert result.exit_code == 1
    assert result.output.count("creates an object only if there is none") == 1
    assert not [record for record in caplog.records if record.name == "holdfast.storage"]
    assert not list(tmp_path.iterdir())


def test_a_doctor_who_is_told_to_stop(tmp_path: Path, holdfast: Holdfast, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM in the middle leaves nothing behind. Guards against hundreds of MiB that a job left in a bucket when its
    time was up."""
    seen = []

    def write(self: PosixStore, name: str, chunks: Iterable[bytes]) -> int:
        seen.extend(tmp_path.iterdir())
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it goes on")

    monkeypatch.setattr(PosixStore, "write", write)
    before = signal.getsignal(signal.SIGTERM)
    assert holdfast("doctor", tmp_path).exit_code == 143
    assert seen
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_place_that_is_not_there(tmp_path: Path, holdfast: Holdfast) -> None:
    """A missing directory gives one sentence and status 2. Guards against a traceback for a user's mistake."""
    result = holdfast("doctor", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "is not a directory" in result.stderr
