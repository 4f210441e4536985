"""Copies of runs: what looks like a checkpoint there is one, at any moment, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from holdfast_storage import copying
from holdfast_storage.checkpoint.manifest import read_manifest
from holdfast_storage.checkpoint.verify import verify_checkpoint
from holdfast_storage.copying import Copying
from holdfast_storage.errors import CheckpointDamaged, HoldfastError, InvalidRequest, StorageError
from holdfast_storage.layout import manifest_object
from holdfast_storage.records import LogState
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store
from servers.fixtures import ObjectStore
from support.chains import Chain, merged
from support.faulty_store import FaultyStore
from support.stores import ALL_KINDS, any_store, new_store


@pytest.fixture
def run(tmp_path: Path) -> Chain:
    """A full checkpoint and two deltas on it, then another full one, of two workers."""
    run = Chain(new_store("posix", tmp_path), 2, {"table": (2,)})
    states = [{"table": np.full((4, 3), number, np.float32), "one": np.array(number)} for number in range(4)]
    run.full(states[0])
    run.delta(states[0], states[1], ["table"])
    run.delta(states[1], states[2], ["table"])
    run.full(states[3])
    return run


def state(run: Chain) -> LogState:
    return LogState("run-id", checkpoints=tuple(run.records))


def copy(run: Chain, out: Store, *numbers: int) -> int:
    """Copy these checkpoints, and return the bytes that were read of them."""
    made, read = Copying(run.store, state(run), out), [0]
    for number in numbers:
        made.copy(run.records[number], read.append)
    made.finish()
    return sum(read)


def check(run: Chain, out: Store) -> list[str]:
    """What a job finds in a copy is sound, is what the run has, and lacks nothing that it is made on."""
    found = read_run(out)
    records = found.checkpoints if found else ()
    assert not found or not found.damaged
    for record in records:
        assert record in run.records
        verify_checkpoint(out, record).raise_if_bad()
        assert merged(out, record) == merged(run.store, record)
    return [record.prefix for record in records]


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_copy_is_a_run(run: Chain, tmp_path: Path, kind: str, object_store: ObjectStore) -> None:
    """What is copied is in the copy in the run's order, each bit of it, for Holdfast and, by the `checkpoint` file, for
    TensorFlow. Guards against a copy that a job restores in another order."""
    out = any_store(kind, tmp_path / "out", object_store)
    copy(run, out, 3, 2)
    assert check(run, out) == [record.prefix for record in run.records]
    assert run.records[3].prefix in out.read("checkpoint").decode()
    assert run.records[2].prefix not in out.read("checkpoint").decode()


def test_what_is_there_is_not_copied_again(run: Chain, tmp_path: Path) -> None:
    """A second call reads what is missing alone, and a delta brings its chain. Guards against a copy of terabytes that
    begins anew."""
    out = new_store("posix", tmp_path / "out")
    sizes = [read_manifest(run.store, record).size for record in run.records]
    assert copy(run, out, 1) == sum(sizes[:2])
    assert Copying(run.store, state(run), out).size(run.records[2]) == sizes[2]
    assert copy(run, out, 2) == sizes[2]
    assert copy(run, out, 2, 0) == 0
    assert len(check(run, out)) == 3


def test_every_call_fails_once(run: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever call of the storage fails, with or without effect, what is in the copy is sound, and the same command
    again makes it whole. Guards against a manifest over objects that are not there, and a delta without its base."""
    monkeypatch.setattr(copying, "_WRITERS", 1)
    failed = 0
    faults: tuple[Literal["fail", "lose"], ...] = ("fail", "lose")
    for verb in ("list", "read", "create", "write", "replace", "size", "delete_folder"):
        for count in range(12):
            for fault in faults:
                out = new_store("posix", tmp_path / f"{verb}-{count}-{fault}")
                try:
                    copy(run, FaultyStore(out, {(verb, count): fault}), 3, 2)
                except HoldfastError as error:
                    assert isinstance(error, StorageError | InvalidRequest)  # noqa: PT017
                    failed += 1
                check(run, out)
                copy(run, out, 3, 2)
                assert len(check(run, out)) == 4
    assert failed > 60


def test_a_byte_that_is_not_what_was_committed(run: Chain, tmp_path: Path) -> None:
    """No checkpoint comes of what is damaged, and once it is repaired, the same command makes it whole. Guards against
    damage that a copy gives new checksums."""
    record = run.records[3]
    for path in sorted((Path(run.store.url) / record.folder).iterdir()):
        sound, out = path.read_bytes(), new_store("posix", tmp_path / path.name)
        path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        with pytest.raises(HoldfastError, match=path.name) as raised:
            copy(run, out, 3)
        assert isinstance(raised.value, CheckpointDamaged)
        assert not check(run, out)
        path.write_bytes(sound)
        copy(run, out, 3)
        assert check(run, out) == [record.prefix]


@pytest.mark.parametrize(
    "name", ["x", "_holdfast/log/000000000000.json", "ckpt-1.0badcafe.1/ckpt-1.index", "copy.json"]
)
def test_whatever_else_is_there_is_refused(run: Chain, tmp_path: Path, name: str) -> None:
    """A directory that is no copy of this run is refused and left as it is. Guards against two runs in one, and against
    a folder that is deleted."""
    out = new_store("posix", tmp_path / "out")
    out.write(name, [b'{"run": "other"}'])
    with pytest.raises(InvalidRequest, match="no copy of this run"):
        copy(run, out, 3)
    assert [path.name for path in Path(out.url).rglob("*") if path.is_file()] == [name.rpartition("/")[2]]


def test_a_job_in_the_copy(run: Chain, tmp_path: Path) -> None:
    """Once a job has begun its log in a copy, nothing more is written there. Guards against folders that come into a
    living run."""
    out = new_store("posix", tmp_path / "out")
    copy(run, out, 0)
    made = Copying(run.store, state(run), out)
    out.write("_holdfast/log/000000000000.json", [b"{}"])
    with pytest.raises(InvalidRequest, match="by somebody else"):
        made.copy(run.records[3], lambda _: None)
    with pytest.raises(InvalidRequest, match="a job has begun there"):
        copy(run, out, 3)
    assert out.size(manifest_object(run.records[3].folder)) is None


def test_two_who_copy_at_once(run: Chain, tmp_path: Path) -> None:
    """Who has begun later goes on, and the other one is told. Guards against two who delete each other's objects."""
    out = new_store("posix", tmp_path / "out")
    first = Copying(run.store, state(run), out)
    first.copy(run.records[0], lambda _: None)
    copy(run, out, 3)
    with pytest.raises(InvalidRequest, match="by somebody else"):
        first.copy(run.records[1], lambda _: None)
    assert len(check(run, out)) == 2


def test_another_checkpoint_of_its_name(run: Chain, tmp_path: Path) -> None:
    """A folder of the same name with another manifest is refused. Guards against a skip of what was replaced."""
    out = new_store("posix", tmp_path / "out")
    copy(run, out, 0)
    path = Path(out.url) / manifest_object(run.records[0].folder)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InvalidRequest, match="another one than the run has"):
        copy(run, out, 0)
