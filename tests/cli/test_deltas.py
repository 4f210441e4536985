"""What `ls`, `show` and `verify` say of deltas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from cli.conftest import RunDirectory
from holdfast_storage.layout import data_object, delta_prefix
from holdfast_storage.records import CheckpointRecord


@pytest.fixture
def chain(run_directory: RunDirectory) -> tuple[CheckpointRecord, ...]:
    """A full checkpoint of step 10, two deltas on it, and another full one."""
    full = run_directory.save(10, 1)
    one = run_directory.save_delta(20, 2, full)
    two = run_directory.save_delta(30, 3, one)
    records = (full, one, two, run_directory.save(40, 4))
    run_directory.log(*records)
    return records


def spoil(run: RunDirectory, record: CheckpointRecord) -> None:
    path = run.path / data_object(record.bundle, 0, 1 if record.base else 2)
    path.write_bytes(bytes(reversed(path.read_bytes())))


def test_ls_says_what_each_is(
    run_directory: RunDirectory,
    chain: tuple[CheckpointRecord, ...],
    holdfast: Callable[..., Result],
    holdfast_json: Callable[..., Any],
) -> None:
    """A list tells deltas from full ones, on what they are, and what a restore needs. Guards against a folder that
    somebody copies or removes by hand, for a whole checkpoint or for nothing."""
    full, one, two, _ = chain
    found = holdfast_json("ls", run_directory.path)["checkpoints"]
    assert [(c["base"], c["chain"]) for c in found] == [("", 1), (full.prefix, 2), (one.prefix, 3), ("", 1)]
    assert found[1]["size"] < found[0]["size"]
    text = holdfast("ls", run_directory.path).stdout
    assert f"delta on {one.prefix}, 3 to restore" in " ".join(text.split())
    run_directory.log(*chain, damaged=(one.prefix,), number=1)
    found = holdfast_json("ls", run_directory.path, status=1)["checkpoints"]
    assert [c["damaged"] for c in found] == [False, True, True, False]
    assert two.prefix == found[2]["prefix"]


def test_show_says_what_a_restore_needs(
    run_directory: RunDirectory,
    chain: tuple[CheckpointRecord, ...],
    holdfast: Callable[..., Result],
    holdfast_json: Callable[..., Any],
) -> None:
    """A delta is shown with its chain, the bytes of all of it, and its own tensors. Guards against an index that is
    looked for under TensorFlow's name."""
    found = holdfast_json("show", f"{run_directory.path}@30")
    assert found["chain"] == [record.prefix for record in chain[:3]]
    sizes = [holdfast_json("show", f"{run_directory.path}@{step}")["size"] for step in (10, 20, 30)]
    assert (found["size"], found["chain_size"]) == (sizes[2], sum(sizes))
    assert [t["shape"] for t in found["tensors"] if "HOLDFAST" in t["key"]] == [[1], [0], [1, 2], [0, 2]]
    text = " ".join(holdfast("show", f"{run_directory.path}@30").stdout.split())
    assert f"{chain[1].prefix}; a restore needs 3 checkpoints" in text
    assert "delta on" not in holdfast("show", f"{run_directory.path}@40").stdout


def test_verify_reads_all_that_a_delta_needs(
    run_directory: RunDirectory, chain: tuple[CheckpointRecord, ...], holdfast_json: Callable[..., Any]
) -> None:
    """The chain of a step is read, and what is bad in it is named, with all that it makes worthless. Guards against
    "good" for a delta that nobody can restore."""
    full, one, two, last = chain
    assert [c["prefix"] for c in holdfast_json("verify", f"{run_directory.path}@30")["checkpoints"]] == [
        record.prefix for record in chain[:3]
    ]
    spoil(run_directory, one)
    found = {c["prefix"]: c for c in holdfast_json("verify", run_directory.path, status=1)["checkpoints"]}
    assert {prefix: c["verdict"] for prefix, c in found.items()} == {
        full.prefix: "good",
        one.prefix: "damaged",
        two.prefix: "damaged",
        last.prefix: "good",
    }
    assert found[one.prefix]["problems"][0]["object"] == data_object(delta_prefix(one.prefix), 0, 1)
    assert found[two.prefix]["problems"][0]["object"] == one.prefix
    assert holdfast_json("verify", f"{run_directory.path}@10")["good"]
