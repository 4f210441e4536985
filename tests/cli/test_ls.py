"""`holdfast ls`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from holdfast_storage.layout import manifest_object

Holdfast = Callable[..., Result]
HoldfastJson = Callable[..., Any]


def test_lists_what_is_committed_in_commit_order(saved: Any, holdfast_json: HoldfastJson) -> None:
    """`ls` lists what is committed, in commit order. Guards against showing the largest step as the newest."""
    again = saved.save(10, 3)
    saved.log(*_live(saved), again, number=1)
    listed = holdfast_json("ls", saved.path)
    assert listed["run"] == str(saved.path)
    assert [c["step"] for c in listed["checkpoints"]] == [10, 20, 10]
    newest = listed["checkpoints"][-1]
    assert newest["prefix"] == again.prefix
    assert newest["workers"] == 2
    assert newest["time"] == 1_750_000_010.0
    folder = saved.path / again.folder
    stored = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    assert newest["size"] == stored - (folder / "manifest.json").stat().st_size


def test_an_attempt_without_commit_is_invisible(saved: Any, holdfast_json: HoldfastJson) -> None:
    """An attempt without a commit is invisible. Guards against a torn save that is listed as a checkpoint and that
    somebody restores."""
    saved.save(30, 3)
    assert [c["step"] for c in holdfast_json("ls", saved.path)["checkpoints"]] == [10, 20]


def test_table_names_every_checkpoint_in_full(saved: Any, holdfast: Holdfast) -> None:
    """The table shows every name in full. Guards against a table in a pipe, cut at 80 columns, that hides the name to
    copy."""
    result = holdfast("ls", saved.path)
    assert result.exit_code == 0
    for record in _live(saved):
        assert record.prefix in result.stdout


def test_a_copy_without_its_log_is_read(saved: Any, holdfast_json: HoldfastJson) -> None:
    """A copy without its log is listed. Guards against a copy made by `cp ckpt-* elsewhere` that seems empty."""
    (saved.path / "_holdfast").rename(saved.path.parent / "log-left-behind")
    assert [c["step"] for c in holdfast_json("ls", saved.path)["checkpoints"]] == [10, 20]


def test_condemned_ones_are_told_and_status_1(saved: Any, holdfast: Holdfast) -> None:
    """Condemned checkpoints are marked, and the status is 1. Guards against a damaged checkpoint that looks like any
    other."""
    first, second = _live(saved)
    saved.log(first, second, damaged=(first.prefix,), number=1)
    result = holdfast("ls", saved.path)
    assert result.exit_code == 1
    line = next(line for line in result.stdout.splitlines() if first.prefix in line)
    assert "DAMAGED" in line
    assert result.stdout.count("DAMAGED") == 1


def test_a_lost_manifest_is_told_and_the_rest_listed(saved: Any, holdfast_json: HoldfastJson) -> None:
    """A checkpoint without a manifest is marked, and the others are listed. Guards against one bad checkpoint that
    hides the good ones."""
    first, _ = _live(saved)
    (saved.path / manifest_object(first.folder)).unlink()
    bad, good = holdfast_json("ls", saved.path, status=1)["checkpoints"]
    assert bad["damaged"]
    assert "manifest.json is missing" in bad["problem"]
    assert not good["damaged"]


def test_a_run_before_its_first_commit(run_directory: Any, holdfast: Holdfast) -> None:
    """A run before its first commit is no error. Guards against calling a new run bad."""
    run_directory.log()
    result = holdfast("ls", run_directory.path)
    assert result.exit_code == 0
    assert "no committed checkpoint yet" in result.stdout


def test_of_very_many_the_newest_are_looked_at(
    saved: Any, holdfast_json: HoldfastJson, holdfast: Holdfast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of very many checkpoints only the newest manifests are read. Guards against a list that takes as long as all
    manifests of a run of years, or shows unread ones as damaged."""
    monkeypatch.setattr("holdfast.cli.ls.LOOKED_AT", 1)
    first, second = _live(saved)
    (saved.path / manifest_object(first.folder)).unlink()
    older, newest = holdfast_json("ls", saved.path)["checkpoints"]
    assert (older["prefix"], older["size"], older["workers"], older["damaged"]) == (first.prefix, None, None, False)
    assert (newest["prefix"], newest["workers"]) == (second.prefix, 2)
    assert holdfast("ls", saved.path).stdout.splitlines()[4].split()[-3:] == ["?", "-", first.prefix]


def _live(run: Any) -> tuple[Any, ...]:
    from holdfast_storage.run_directory import read_run

    state = read_run(run.store)
    assert state is not None
    return state.checkpoints
