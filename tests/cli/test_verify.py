"""`holdfast verify`."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Holdfast = Callable[..., Result]
HoldfastJson = Callable[..., Any]


def test_a_good_run(saved: Any, holdfast_json: HoldfastJson, holdfast: Holdfast) -> None:
    """`verify` reads every checkpoint and counts every byte. Guards against a verification that skips something."""
    verified = holdfast_json("verify", saved.path)
    assert verified["good"]
    assert [(c["step"], c["verdict"], c["problems"]) for c in verified["checkpoints"]] == [
        (10, "good", []),
        (20, "good", []),
    ]
    for checkpoint in verified["checkpoints"]:
        assert checkpoint["size"] >= sum(f.stat().st_size for f in _objects(saved.path, checkpoint["step"]))
    result = holdfast("verify", saved.path)
    assert result.exit_code == 0
    assert "none bad" in result.stdout
    assert result.stderr == ""  # the progress bar is for terminals


@pytest.mark.parametrize("number", range(6))
def test_one_bit_in_any_object(saved: Any, holdfast_json: HoldfastJson, number: int) -> None:
    """One flipped bit in any object is found. Guards against index, manifest or a worker's own objects that are not
    checked."""
    victim = sorted(f for f in next(saved.path.glob("ckpt-20.*")).rglob("*") if f.is_file())[number]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    verified = holdfast_json("verify", saved.path, status=1)
    good, bad = verified["checkpoints"]
    assert good["verdict"] == "good"
    assert bad["verdict"] == "damaged"
    assert [p["object"] for p in bad["problems"]] == [str(victim.relative_to(saved.path))]
    assert not verified["good"]


def test_a_missing_object_is_named(saved: Any, holdfast: Holdfast) -> None:
    """A missing object is named, with what is wrong. Guards against a text that says only "bad"."""
    victim = next(saved.path.glob("ckpt-20.*/ckpt-20.data-00001-of-00002"))
    victim.unlink()
    result = holdfast("verify", f"{saved.path}@20")
    assert result.exit_code == 1
    assert f"{victim.relative_to(saved.path)}: absent: is missing" in result.stdout


def test_one_step_alone(saved: Any, holdfast_json: HoldfastJson) -> None:
    """`@STEP` reads only that checkpoint. Guards against a failure because of other, damaged checkpoints."""
    next(saved.path.glob("ckpt-20.*/ckpt-20.index")).unlink()
    assert [c["step"] for c in holdfast_json("verify", f"{saved.path}@10")["checkpoints"]] == [10]


def test_nothing_to_verify_is_not_good(run_directory: Any, holdfast: Holdfast) -> None:
    """A run without checkpoints is not good. Guards against a nightly job that verifies nothing and reports that all is
    well."""
    run_directory.log()
    result = holdfast("verify", run_directory.path)
    assert result.exit_code == 2
    assert "nothing to verify" in result.stderr


def test_what_retention_removed_meanwhile_is_not_damage(
    saved: Any, holdfast_json: HoldfastJson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What retention removes meanwhile is not damage. Guards against a false alarm while a job is running."""
    import holdfast_storage.checkpoint.verify
    from holdfast_storage.run_directory import read_run

    verify_checkpoint = holdfast_storage.checkpoint.verify.verify_checkpoint

    def retire_then_verify(store: Any, record: Any, **options: Any) -> Any:
        if record.step == 10:
            state = read_run(store)
            assert state is not None
            saved.log(*(c for c in state.checkpoints if c.step != 10), number=1)
            store.delete_folder(record.folder)
        return verify_checkpoint(store, record, **options)

    monkeypatch.setattr(holdfast_storage.checkpoint.verify, "verify_checkpoint", retire_then_verify)
    assert [c["step"] for c in holdfast_json("verify", saved.path)["checkpoints"]] == [20]


@pytest.mark.processes
def test_the_progress_bar_survives_a_lost_manifest(saved: Any) -> None:
    """The progress bar works without a manifest. Guards against a verification that ends because the sizes cannot be
    summed up."""
    next(saved.path.glob("ckpt-20.*/manifest.json")).unlink()
    reader, terminal = pty.openpty()
    command = [sys.executable, "-m", "holdfast.cli", "verify", str(saved.path)]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, text=True, timeout=60, check=False)
    os.close(terminal)
    drawn = os.read(reader, 100_000).decode()
    os.close(reader)
    assert result.returncode == 1
    assert "manifest.json: absent: " in result.stdout
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in drawn


def _objects(run: Path, step: int) -> list[Path]:
    folder = next(run.glob(f"ckpt-{step}.*"))
    return [f for f in folder.rglob("*") if f.is_file() and f.name != "manifest.json"]
