"""`holdfast doctor`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from holdfast_storage import examine
from holdfast_storage.store.posix import PosixStore

Holdfast = Callable[..., Result]
HoldfastJson = Callable[..., Any]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "LARGE_MIB", 4)


def test_a_sound_place(tmp_path: Path, holdfast: Holdfast, holdfast_json: HoldfastJson) -> None:
    """Plain words for people, figures for programs, and nothing left behind."""
    result = holdfast("doctor", tmp_path)
    assert result.exit_code == 0, result.output
    assert "had exactly one winner each" in result.stdout
    assert result.stdout.endswith(f"{tmp_path} does all that Holdfast relies on\n")
    document = holdfast_json("doctor", tmp_path)
    assert document["good"]
    assert {check["verdict"] for check in document["checks"]} <= {"works", "slow"}
    assert not list(tmp_path.iterdir())


def test_an_unsafe_place(
    tmp_path: Path, holdfast: Holdfast, holdfast_json: HoldfastJson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that checks a bucket before a run of a week goes on although it must not."""
    monkeypatch.setattr(PosixStore, "create", lambda self, name, data: self.replace(name, data) or True)
    result = holdfast("doctor", tmp_path)
    assert result.exit_code == 1
    assert "NOT PROTECTED exclusive create" in result.stdout
    assert "is not a safe place for a run: exclusive create" in result.stdout
    assert not holdfast_json("doctor", tmp_path, status=1)["good"]


def test_a_place_that_is_not_there(tmp_path: Path, holdfast: Holdfast) -> None:
    """A mistake of the user's: one sentence, and status 2."""
    result = holdfast("doctor", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "is not a directory" in result.stderr
