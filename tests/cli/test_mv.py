"""`holdfast mv`: a run is in one place or the other, whole, at any moment."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import Result

import holdfast_storage.store as storage
from holdfast.cli import target
from holdfast_storage.checkpoint.verify import verify_checkpoint
from holdfast_storage.copying import Copying
from holdfast_storage.errors import StorageError
from holdfast_storage.layout import parse_folder
from holdfast_storage.log.holding import hold
from holdfast_storage.log.log import Log, Published
from holdfast_storage.moving import Moving
from holdfast_storage.records import CheckpointRecord, Entry, Generation, Leader, Lease, LogState, Past, Pin
from holdfast_storage.run_directory import import_state, read_run
from holdfast_storage.store import Store, open_store
from support.passing_store import PassingStore

from .conftest import RunDirectory

T = TypeVar("T")
Holdfast = Callable[..., Result]
HoldfastJson = Callable[..., Any]


@pytest.fixture
def run(run_directory: RunDirectory) -> RunDirectory:
    """A run that a job leads: a full step 10 that is kept for ever, a delta 20 on it, and a pinned step 40. Step 30 is
    known to be damaged."""
    full = replace(run_directory.save(10, 1), preserved=True)
    delta = run_directory.save_delta(20, 2, full)
    bad, last = run_directory.save(30, 3), run_directory.save(40, 4)
    state = LogState(
        "run-id",
        Leader("leader", "", "host"),
        Generation("0a1b2c3d", ()),
        checkpoints=(full, delta, bad, last),
        damaged=(bad.prefix,),
        pinned=(Pin(last.prefix, 5.0, "for the paper"),),
        led=0.0,
    )
    assert Log(run_directory.store).publish(Entry(0, "commit", "w", 1.0, state), 5.0) == Published()
    return run_directory


def tail(store: Store) -> Entry:
    entry = Log(store).tail()
    assert entry is not None
    return entry


def folders(path: Path) -> list[int]:
    """The steps whose folders are there."""
    found = (parse_folder(each.name) for each in path.iterdir())
    return sorted(each.number for each in found if each)


def test_a_run_moves(run: RunDirectory, holdfast: Holdfast, holdfast_json: HoldfastJson, tmp_path: Path) -> None:
    """What the log says of the checkpoints comes along, the old place is closed and has none of them, nor what was
    never committed, and the same command again says so. Guards against a lost pin, and data that nobody deletes."""
    run.save(50, 5)
    before = tail(run.store).state
    result = holdfast("mv", run.path, tmp_path / "out")
    told = f"{run.path} was moved to {tmp_path}/out\nleft there, as damaged: 1 checkpoint\n"
    assert (result.exit_code, result.stdout) == (0, told)
    assert (folders(run.path), folders(tmp_path / "out")) == ([30], [10, 20, 40])
    there = tail(open_store(tmp_path / "out"))
    own = tuple(record for record in before.checkpoints if record.step != 30)
    past = Past(1, before.led_for)
    wanted = LogState("run-id", checkpoints=own, pinned=before.pinned, superseded=("0a1b2c3d",), past=past)
    assert (there.number, there.kind, there.state) == (0, "import", wanted)
    assert [each["verdict"] for each in holdfast_json("verify", tmp_path / "out")["checkpoints"]] == ["good"] * 3
    closed = tail(run.store).state
    assert (closed.moved, closed.generation, closed.checkpoints) == (f"{tmp_path}/out", None, ())
    assert holdfast("mv", run.path, tmp_path / "out").stdout == told
    result = holdfast("mv", run.path, tmp_path / "other")
    assert (result.exit_code, f"moved to {tmp_path}/out" in result.stderr) == (2, True)
    assert not (tmp_path / "other").exists()


class Killed(BaseException):
    """The process ends here."""


class Mortal(PassingStore):
    """One of several stores whose process ends right before one of the calls that change something, or that lose the
    answer to it."""

    def __init__(self, inner: Store, calls: list[str], fatal: int, lost: bool) -> None:
        super().__init__(inner)
        self._calls, self._fatal, self._lost = calls, fatal, lost

    def _call(self, verb: str, name: str, effect: Callable[[], T]) -> T:
        if verb not in ("create", "write", "replace", "delete_folder"):
            return effect()
        self._calls.append(f"{verb} {self.url}/{name}")
        number = len(self._calls) - 1
        if self._lost and number == self._fatal:
            effect()
            raise StorageError("the answer was lost", object=name)
        if not self._lost and number >= self._fatal:
            raise Killed
        return effect()


def sound(path: Path) -> set[str]:
    """What a job or a reader finds there, and is whole."""
    store = open_store(path)
    found = read_run(store)
    records = found.restorable if found else ()
    return {record.prefix for record in records if not verify_checkpoint(store, record).problems}


@pytest.mark.parametrize("lost", [False, True], ids=["killed", "lost"])
def test_interrupted_at_every_change(
    run: RunDirectory, holdfast: Holdfast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """Killed before any change of a storage, or if the answer to one is lost, each checkpoint is whole in the old
    place, or, if that is closed, in the new one, and the same command goes on to the end. Guards against a checkpoint
    that is nowhere, and a move that cannot be taken up again."""
    begun, old, new = tmp_path / "run", tmp_path / "old", tmp_path / "new"
    own = {record.prefix for record in tail(run.store).state.restorable}
    points = 0
    while True:
        for path in (old, new):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(begun, old)
        calls: list[str] = []

        def opened(url: Any, calls: list[str] = calls, point: int = points) -> Store:
            return Mortal(open_store(url), calls, point, lost)

        with monkeypatch.context() as patched:
            patched.setattr(target, "open_store", opened)
            patched.setattr(storage, "open_store", opened)
            with suppress(Killed):
                holdfast("mv", old, new)
        closed = tail(open_store(old)).state.moved
        assert sound(new if closed else old) == own, calls
        if len(calls) <= points:
            break
        points += 1
        assert holdfast("mv", old, new).exit_code == 0, calls
        assert sound(new) == own
        assert (folders(old), folders(new)) == ([30], [10, 20, 40])
        assert [pin.reason for pin in tail(open_store(new)).state.pinned] == ["for the paper"]
    assert points > 25


def test_who_looks_at_the_old_place(run: RunDirectory, holdfast: Holdfast, tmp_path: Path) -> None:
    """Every command for a run tells where it is now. Guards against a run that seems to have lost everything."""
    assert holdfast("mv", run.path, tmp_path / "out").exit_code == 0
    for status, command, step in (
        *((0, command, "") for command in ("ls", "status")),
        *((2, command, "") for command in ("show", "verify", "save-now")),
        *((2, command, "@10") for command in ("pin", "unpin", "rollback", "rm")),
    ):
        result = holdfast(command, f"{run.path}{step}")
        assert (result.exit_code, f"{tmp_path}/out: go on there" in result.output) == (status, True), result.output
    for command in ("cp", "mv", "diff", "materialize", "export"):
        result = holdfast(command, run.path, tmp_path / "x.keras")
        assert (result.exit_code, f"moved to {tmp_path}/out: go on there" in result.stderr) == (2, True), result.output


def test_a_step_moves(run: RunDirectory, holdfast: Holdfast, holdfast_json: HoldfastJson, tmp_path: Path) -> None:
    """With a step, its checkpoint is in the new place with what it is made on, and not in the old one. What may not be
    removed is not copied. Guards against a delta without its base, and against a folder that nobody deletes."""
    out = tmp_path / "out"
    for step, why in (
        (10, "step 20 needs"),
        (30, "marked as damaged"),
        (40, "is pinned"),
        (50, "no checkpoint of step"),
    ):
        result = holdfast("mv", f"{run.path}@{step}", out)
        assert (result.exit_code, why in result.stderr) == (2, True), result.stderr
    assert not out.exists()
    before = tail(run.store)
    reader, delta = Moving(run.store, open_store(out)).reader, before.state.checkpoints[1]
    state = before.state.lease(Lease(delta.prefix, reader, 3600.0, before.number + 1))  # of a try that was killed
    Log(run.store).publish(Entry(before.number + 1, "lease", "w", 1.0, state), 5.0)
    told = f"{run.path}@20 was moved to {out}\n"
    assert holdfast("mv", f"{run.path}@20", out).stdout == told
    assert (folders(run.path), folders(out)) == ([10, 30, 40], [10, 20])
    assert [each["verdict"] for each in holdfast_json("verify", out)["checkpoints"]] == ["good"] * 2
    closed = tail(run.store).state
    assert ([record.step for record in closed.checkpoints], closed.leases, closed.moved) == ([10, 30, 40], (), "")
    shutil.copytree(out / delta.folder, run.path / delta.folder)  # as if it were killed before the deletion
    assert holdfast("mv", f"{run.path}@20", out).stdout == told
    assert folders(run.path) == [10, 30, 40]
    assert holdfast("mv", f"{run.path}@20", tmp_path / "other").exit_code == 2


def test_a_step_that_vanishes(
    run: RunDirectory, holdfast: Holdfast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that retention has removed before it was copied, or since, is not said to have moved. Guards against the
    only copy, which is none."""
    with monkeypatch.context() as patched:
        patched.setattr(target.Run, "live_now", lambda _: set())
        result = holdfast("mv", f"{run.path}@20", tmp_path / "out")
    assert (result.exit_code, "retention has removed" in result.stderr) == (2, True)

    def retires(copying: Copying) -> None:
        last = tail(run.store)
        state = last.state.remove(last.state.checkpoints[1].prefix)
        Log(run.store).publish(Entry(last.number + 1, "retire", "w", 1.0, state), 5.0)

    monkeypatch.setattr(Copying, "finish", retires)
    result = holdfast("mv", f"{run.path}@20", tmp_path / "out")
    assert (result.exit_code, "was copied, and is not there any more" in result.stderr) == (2, True)


def test_beside_a_job(run: RunDirectory, holdfast: Holdfast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the job commits meanwhile moves as well, and a job that never pauses is to be ended first. Guards against a
    commit that the move passes by."""
    steps = iter(range(50, 200))
    often = [1]

    def commits(copying: Copying) -> None:
        finish(copying)
        if often[0]:
            often[0] -= 1
            last, step = tail(run.store), next(steps)
            state = last.state.commit(run.save(step, step))
            Log(run.store).publish(Entry(last.number + 1, "commit", f"w-{step}", 1.0, state), 5.0)

    finish = Copying.finish
    monkeypatch.setattr(Copying, "finish", commits)
    shutil.copytree(run.path, tmp_path / "busy")
    assert holdfast("mv", run.path, tmp_path / "out").exit_code == 0
    assert [record.step for record in tail(open_store(tmp_path / "out")).state.checkpoints] == [10, 20, 40, 50]
    run, often[0] = RunDirectory(tmp_path / "busy"), 1000
    result = holdfast("mv", run.path, tmp_path / "other")
    assert (result.exit_code, "end it first" in result.stderr) == (2, True)
    assert not tail(run.store).state.moved


def test_readers(run: RunDirectory, holdfast: Holdfast, tmp_path: Path) -> None:
    """Nothing is closed while somebody reads, and the lease of who was killed ends by itself. Guards against data that
    is deleted under its reader, and against a run that never moves."""
    (first, *_), log = tail(run.store).state.checkpoints, Log(run.store)

    def lease(reader: str, time: float, seconds: float) -> None:
        last = tail(run.store)
        state = last.state.lease(Lease(first.prefix, reader, seconds, last.number + 1))
        log.publish(Entry(last.number + 1, "lease", reader, time, state), 5.0)

    lease("killed", time.time() - 100, 99.0)
    lease(Moving(run.store, open_store(tmp_path / "out")).reader, time.time(), 3600.0)
    lease("at work", time.time() - 100, 3600.0)
    result = holdfast("mv", run.path, tmp_path / "out")
    assert (result.exit_code, f"{first.prefix} is being read" in result.stderr) == (2, True)
    assert not tail(run.store).state.moved
    hold(log, "release", lambda state, _: state.release("at work"), "")
    assert holdfast("mv", run.path, tmp_path / "out").exit_code == 0


def test_a_job_begins_before_the_end(run: RunDirectory, holdfast: Holdfast, tmp_path: Path) -> None:
    """If a job has begun in the new place before the move came to its end there, pins and tags come to it. Guards
    against a second log, and a pin or tag that is lost."""
    holdfast("tag", f"{run.path}@20", "production")
    holdfast("cp", run.path, tmp_path / "out")
    out = open_store(tmp_path / "out")
    moving = Moving(run.store, out)
    moving.close({record.prefix for record in tail(run.store).state.restorable})
    assert moving.is_closed
    Log(out).publish(Entry(0, "import", "w", 1.0, import_state(out, "of the job")), 5.0)
    assert holdfast("mv", run.path, tmp_path / "out").exit_code == 0
    there = tail(out)
    assert (there.kind, there.state.run_id, len(there.state.checkpoints)) == ("tag", "of the job", 3)
    assert [pin.reason for pin in there.state.pinned] == ["for the paper"]
    assert there.state.tagged("production") == there.state.checkpoints[1]
    assert holdfast("mv", run.path, tmp_path / "out").exit_code == 0
    assert (tail(out).number, folders(run.path)) == (there.number, [30])


def test_a_copy_that_is_not_sound(run: RunDirectory, holdfast: Holdfast, tmp_path: Path) -> None:
    """What was copied is read back before the run is closed. Guards against a move that trusts a storage."""
    holdfast("cp", run.path, tmp_path / "out")
    (path,) = (tmp_path / "out").glob("ckpt-10.*/*.data-00001-of-00002")
    path.write_bytes(bytes(16))
    result = holdfast("mv", run.path, tmp_path / "out")
    assert (result.exit_code, path.name in result.stderr) == (1, True)
    assert (tail(run.store).state.moved, folders(run.path)) == ("", [10, 20, 30, 40])
    shutil.rmtree(path.parent)
    assert holdfast("mv", run.path, tmp_path / "out").exit_code == 0


def test_gone_from_the_new_place(run: RunDirectory, holdfast: Holdfast, tmp_path: Path) -> None:
    """If the new place has lost something before it has a log, the old one keeps it. Guards against the last copy that
    is deleted."""
    holdfast("cp", run.path, tmp_path / "out")
    Moving(run.store, open_store(tmp_path / "out")).close({c.prefix for c in tail(run.store).state.restorable})
    (path,) = (tmp_path / "out").glob("ckpt-40.*")
    shutil.rmtree(path)
    result = holdfast("mv", run.path, tmp_path / "out")
    assert (result.exit_code, f"{path} is gone" in result.stderr) == (1, True)
    assert folders(run.path) == [10, 20, 30, 40]
    shutil.copytree(run.path / path.name, path)
    assert holdfast("mv", run.path, tmp_path / "out").exit_code == 0


def test_mistakes(run: RunDirectory, holdfast: Holdfast, tmp_path: Path) -> None:
    """What cannot be moved is refused by what it is, and stays. Guards against a run that is closed for nothing, and a
    step of TensorFlow's that nobody goes on from."""
    holdfast("cp", run.path, tmp_path / "copy")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    for place, out, why in (
        (run.path, run.path, "is in"),
        (run.path, run.path / "below", "is in"),
        (run.path, "memory://run", "ends with this command"),
        (run.path, tmp_path / "taken", "holds file already"),
        (run.path, tmp_path / "two\nlines", "the log cannot name the new place"),
        (tmp_path / "copy", tmp_path / "out", "has no log"),
        (tmp_path / "none", tmp_path / "out", "does not exist"),
    ):
        result = holdfast("mv", place, out)
        assert (result.exit_code, why in result.stderr) == (2, True), result.stderr
    last = tail(run.store)
    stock = CheckpointRecord("ckpt-50", 50, 60.0, stock=True)
    Log(run.store).publish(Entry(last.number + 1, "commit", "w-50", 1.0, last.state.commit(stock)), 5.0)
    result = holdfast("mv", run.path, tmp_path / "out")
    assert (result.exit_code, "ckpt-50, was written by TensorFlow itself" in result.stderr) == (2, True)
    state = LogState("run-id", checkpoints=(stock,))
    Log(run.store).publish(Entry(last.number + 2, "commit", "w-60", 1.0, state), 5.0)
    result = holdfast("mv", run.path, tmp_path / "out")
    assert (result.exit_code, "holds nothing that Holdfast has saved" in result.stderr) == (2, True)
    assert (tail(run.store).state, folders(run.path)) == (state, [10, 20, 30, 40])
