"""What several workers saved: written once, in equal shares, and read by any other world and by TensorFlow alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast_storage.bundle.index import Index
from holdfast_storage.checkpoint.manifest import Manifest
from holdfast_storage.layout import index_object, manifest_object
from support.training_world import PROGRAMS, QUIET

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]

SIZES = (1, 2, 4)
KINDS = ("various", "unequal", "keras")


@pytest.fixture(scope="module")
def runs(worlds: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directories `<kind>-<world>` of every kind of state and size of world."""
    folder = tmp_path_factory.mktemp("runs")
    for size in SIZES:
        for kind in KINDS:
            saved = worlds.get(size).run("saving.save", directory=str(folder / f"{kind}-{size}"), kind=kind)
            (folder / f"{kind}-{size}.json").write_text(json.dumps(saved))
    return folder


def saved(runs: Path, kind: str, size: int) -> Any:
    """What each worker said when it had saved."""
    return json.loads((runs / f"{kind}-{size}.json").read_text())


@pytest.mark.parametrize("size", SIZES)
def test_the_state_is_written_once(runs: Path, size: int) -> None:
    """The mirrored state is written once. Guards against N whole states, as with TensorFlow's own manager."""
    workers = saved(runs, "unequal", size)
    state = workers[0]["bytes"]
    written = sum(worker["written"] for worker in workers)
    assert state <= written <= state + size * (64 << 10)
    attempt = Path(workers[0]["prefix"]).parent
    assert state <= sum(f.stat().st_size for f in attempt.rglob("*") if f.is_file()) <= state + (64 << 10)


@pytest.mark.parametrize("size", [2, 4])
def test_shares_are_equal(runs: Path, size: int) -> None:
    """All workers write about the same amount. Guards against one worker that has the largest variables and keeps the
    others waiting."""
    shares = shares_of(Path(saved(runs, "unequal", size)[0]["prefix"]))
    assert len(shares) == size
    assert max(shares.values()) <= 1.05 * min(shares.values())


def shares_of(prefix: Path) -> dict[str, int]:
    """Bytes of data by worker."""
    manifest = Manifest.parse(Path(manifest_object(str(prefix.parent))).read_bytes(), "")
    shares: dict[str, int] = {}
    for each in manifest.objects:
        if each.role == "data":
            shares[str(each.task)] = shares.get(str(each.task), 0) + each.size
    return shares


def test_a_large_variable_is_cut_over_all_workers(runs: Path) -> None:
    """A large variable is cut over all workers. Guards against tests below that say nothing about slices."""
    prefix = saved(runs, "various", 4)[0]["prefix"]
    index = Index.parse(Path(index_object(prefix)).read_bytes())
    pieces = index.pieces("big/.ATTRIBUTES/VARIABLE_VALUE")
    manifest = Manifest.parse(Path(manifest_object(os.path.dirname(prefix))).read_bytes(), "")
    writers = {each.name.rpartition(".")[2]: each.task for each in manifest.objects if each.role == "data"}
    holders = {writers[f"data-{entry.shard:05}-of-{index.num_shards:05}"] for _, entry in pieces}
    assert len(holders) == 4


def test_a_copy_is_read_without_holdfast(runs: Path, tmp_path: Path) -> None:
    """A copy of a checkpoint is read without Holdfast. Guards against a team that cannot read its checkpoints once it
    stops using Holdfast or hands them on."""
    copies = [(str(tmp_path / f"{kind}-{size}"), kind, size) for kind in KINDS for size in SIZES]
    for copy, kind, size in copies:
        shutil.copytree(runs / f"{kind}-{size}", copy)
    shutil.move(runs, hidden := runs.with_name("hidden"))  # nothing may lead back to the original
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(PROGRAMS / "stock_reader.py"), json.dumps([c[:2] for c in copies])],
            env={**os.environ, **QUIET},
            capture_output=True,
            text=True,
            timeout=120.0,
            check=False,
        )
    finally:
        shutil.move(hidden, runs)
    assert done.returncode == 0, done.stderr
    for (copy, kind, size), found in zip(copies, json.loads(done.stdout), strict=True):
        worker = saved(runs, kind, size)[0]
        assert found["latest"] == worker["prefix"].replace(str(runs), str(tmp_path)), copy
        assert found["restored"] == worker["values"], copy
        # Under other names, the same values, and nothing else but the save counter.
        loaded = sorted(found["loaded"].values())
        wanted = sorted(worker["values"].values())
        counter = found["loaded"]["save_counter/.ATTRIBUTES/VARIABLE_VALUE"]
        loaded.remove(counter)
        if kind == "various":
            assert found["loaded"]["big/.ATTRIBUTES/VARIABLE_VALUE"] == worker["values"]["big"]
        assert loaded == wanted, copy


def test_it_is_exported(runs: Path, tmp_path: Path) -> None:
    """What four workers have saved is exported as what one would have: the model is rebuilt from what the checkpoint
    carries. Guards against an export that knows the files of one worker."""
    written = []
    for size in (1, 4):
        out = tmp_path / f"{size}.safetensors"
        command = [sys.executable, "-m", "holdfast.cli", "export", str(runs / f"keras-{size}"), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120.0, check=False)
        assert done.returncode == 0, done.stderr
        assert "8 weights of step" in done.stdout
        written.append(out.read_bytes())
    assert written[0] == written[1]
    model = saved(runs, "keras", 4)[0]["values"]
    assert sum(name.startswith("model/") for name in model) == 8


@pytest.mark.parametrize(("saved_by", "restored_by"), [(4, 2), (4, 1), (2, 4), (1, 4), (2, 1), (1, 2)])
def test_another_world_restores_it(worlds: Any, runs: Path, saved_by: int, restored_by: int) -> None:
    """Fewer or more workers restore the checkpoint. Guards against a job that cannot go on with another number of
    machines."""
    for kind in KINDS:
        workers = saved(runs, kind, saved_by)
        restored = worlds.get(restored_by).run("saving.restore", directory=str(runs / f"{kind}-{saved_by}"), kind=kind)
        assert len(restored) == restored_by
        assert all(each == {key: workers[0][key] for key in ("prefix", "values")} for each in restored)
