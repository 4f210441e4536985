"""The command line in a run with fields that nobody writes: a sentence and status 1, at once, and never a traceback."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from holdfast_storage.store import open_store
from support.hostile import ENTRIES, INDEXES, MANIFESTS, Change, IndexChange, write_run

Run = Callable[..., Result]


def said(result: Result) -> str:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert len(result.output) < 10_000
    return result.output


@pytest.mark.parametrize(("change", "told"), ENTRIES.values(), ids=ENTRIES)
def test_entries(tmp_path: Path, holdfast: Run, change: Change, told: str) -> None:
    """Each command names what is wrong with an entry. Guards against a traceback for an operator who looks why a job
    does not start, and against an older state that is shown as if it were the run's."""
    write_run(open_store(tmp_path / "run"), entry=change)
    for command in ("ls", "show", "verify", "status"):
        result = holdfast(command, tmp_path / "run")
        assert result.exit_code == 1
        assert re.search(told, said(result)), result.output


@pytest.mark.parametrize(("change", "told"), MANIFESTS.values(), ids=MANIFESTS)
def test_manifests(tmp_path: Path, holdfast: Run, change: Change, told: str) -> None:
    """Each command that reads a manifest names what is wrong with it. Guards against `verify` that finds none bad."""
    write_run(open_store(tmp_path / "run"), manifest=change)
    for command in ("ls", "show", "verify", "status"):
        result = holdfast(command, tmp_path / "run")
        if command == "status" or (command, "is not in the manifest") == ("ls", told):
            assert result.exit_code == 0, said(result)
        else:
            assert result.exit_code == 1
            assert re.search(told, said(result)), result.output


@pytest.mark.parametrize(("change", "told"), INDEXES.values(), ids=INDEXES)
def test_indexes(tmp_path: Path, holdfast: Run, change: IndexChange, told: str) -> None:
    """`verify` names what is wrong with an index, and no command ends in a traceback. Guards against "none bad" for
    what TensorFlow cannot read."""
    write_run(open_store(tmp_path / "run"), index=change)
    for command in ("ls", "show", "status"):
        result = holdfast(command, tmp_path / "run")
        assert result.exit_code in (0, 1), said(result)
    result = holdfast("verify", tmp_path / "run")
    assert result.exit_code == 1
    assert re.search(told, said(result)), result.output


@pytest.mark.parametrize(("change", "told"), MANIFESTS.values(), ids=MANIFESTS)
def test_manifests_are_neither_compared_nor_copied(tmp_path: Path, holdfast: Run, change: Change, told: str) -> None:
    """`diff` and `cp` name what is wrong with a manifest. Guards against a copy of what nobody committed."""
    write_run(open_store(tmp_path / "good"))
    write_run(open_store(tmp_path / "run"), manifest=change)
    for arguments in (("diff", tmp_path / "good", tmp_path / "run"), ("cp", tmp_path / "run", tmp_path / "out")):
        result = holdfast(*arguments)
        if (arguments[0], told) == ("cp", "is not in the manifest"):  # of the objects that are there, it is a copy
            continue
        assert result.exit_code == 1
        assert re.search(told, said(result)), result.output


@pytest.mark.parametrize(("change", "told"), INDEXES.values(), ids=INDEXES)
def test_indexes_are_compared_in_a_sentence(tmp_path: Path, holdfast: Run, change: IndexChange, told: str) -> None:
    """`diff` ends in no traceback, whatever an index says. Guards against shapes that numpy refuses."""
    write_run(open_store(tmp_path / "good"))
    for name in ("run", "other"):
        write_run(open_store(tmp_path / name), index=change)
    for first in ("good", "other"):
        assert holdfast("diff", tmp_path / first, tmp_path / "run").exit_code in (0, 1)
        said(holdfast("diff", tmp_path / first, tmp_path / "run"))
