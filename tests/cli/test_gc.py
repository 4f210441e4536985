"""`holdfast gc`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import Result

from holdfast_storage.log.log import Log, Published
from holdfast_storage.records import Entry, Generation, Leader, LogState

from .conftest import RunDirectory

Holdfast = Callable[..., Result]
HoldfastJson = Callable[..., Any]


def lead(state: LogState, generation: str) -> LogState:
    return state.lead(Leader(generation, "", ""), Generation(generation, ()))


def add(run: RunDirectory, state: LogState, kind: str) -> None:
    tail = Log(run.store).tail()
    number = tail.number + 1 if tail else 0
    assert Log(run.store).publish(Entry(number, kind, f"write-{number}", 1.0, state), 5.0) == Published()


def test_what_is_left_and_why(run_directory: RunDirectory, holdfast: Holdfast, holdfast_json: HoldfastJson) -> None:
    """What can never be committed, what is retired and what may be going on are told apart, and nothing else is listed.
    Guards against a live checkpoint, or somebody's copy, that an operator takes for rubbish."""
    first, last = run_directory.save(10, 1), run_directory.save(20, 2)
    add(run_directory, lead(LogState("run-id"), "0a1b2c3d"), "lead")
    tail = Log(run_directory.store).tail()
    assert tail is not None
    for folder in ("ckpt-30.0a1b2c3d.3", "ckpt-30.0b0b0b0b.1", "ckpt-5.0c0c0c0c.1", "mine"):
        run_directory.store.write(f"{folder}/local/x", [bytes(7)])
    committed = LogState("run-id", tail.state.leader, tail.state.generation, checkpoints=(first, last))
    add(run_directory, committed, "commit")
    now = lead(committed.retire([first.prefix], [], None), "0b0b0b0b")
    add(run_directory, now, "lead")
    before = sorted(run_directory.path.rglob("*"))
    found = holdfast_json("gc", run_directory.path, "--dry-run")
    assert {each["folder"]: each["kind"] for each in found["folders"]} == {
        first.folder: "retired",
        "ckpt-30.0a1b2c3d.3": "orphan",
        "ckpt-30.0b0b0b0b.1": "open",
    }
    sizes = {each["folder"]: each["size"] for each in found["folders"]}
    stored = sum(path.stat().st_size for path in (run_directory.path / first.folder).rglob("*") if path.is_file())
    assert (sizes["ckpt-30.0a1b2c3d.3"], sizes[first.folder], found["size"]) == (7, stored, stored + 14)
    assert "3 folders of" in holdfast("gc", run_directory.path, "--dry-run").stdout
    assert sorted(run_directory.path.rglob("*")) == before


def test_nothing_is_deleted(saved: RunDirectory, holdfast: Holdfast, tmp_path: Path) -> None:
    """Without --dry-run it is wrong use, in a clean run there is nothing, and where there is no run it says so. Guards
    against a deletion beside a living job."""
    result = holdfast("gc", saved.path)
    assert (result.exit_code, "--dry-run" in result.stderr) == (2, True)
    assert "0 folders of 0 B" in holdfast("gc", saved.path, "--dry-run").stdout
    assert holdfast("gc", tmp_path / "nothing", "--dry-run").exit_code == 2
