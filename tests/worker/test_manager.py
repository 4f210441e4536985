"""`CheckpointManager` in a world of one: TensorFlow's habits, and what is asked of it at odd moments."""

from __future__ import annotations

import gc
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import holdfast
from holdfast.saving.capture import Snapshotter
from holdfast.saving.snapshot import Snapshot
from holdfast.session.session import Session
from holdfast_storage.checkpoint.verify import Problem, Report
from holdfast_storage.errors import HoldfastError, InvalidRequest, SaveFailed, StorageError, Superseded
from holdfast_storage.log.holding import hold
from holdfast_storage.log.log import Log
from holdfast_storage.records import Tag
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store
from holdfast_storage.store.posix import PosixStore
from support.light_worker import until

pytestmark = pytest.mark.tensorflow


class Managers:
    """Managers of checkpoints of one variable `v`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._made: list[holdfast.CheckpointManager] = []

    def make(self, value: Any = 0.0, **arguments: Any) -> Any:
        checkpoint = tf.train.Checkpoint(v=tf.Variable(value))
        arguments = {"save_timeout": 20.0, **arguments}
        self._made.append(holdfast.CheckpointManager(checkpoint, self.directory, **arguments))
        return self._made[-1]

    def close(self) -> None:
        for manager in self._made:
            manager.close()


@pytest.fixture
def managers(tmp_path: Path) -> Iterator[Managers]:
    managers = Managers(tmp_path / "run")
    yield managers
    managers.close()


def test_a_run_that_was_moved(managers: Managers) -> None:
    """Who asks for checkpoints, and who saves, is told where the run is. Guards against a program that finds none, and
    begins anew."""
    with managers.make() as manager:
        manager.save()
    log = Log(open_store(managers.directory))
    hold(log, "move", lambda state, _: state.move("gs://bucket/run"), "")
    manager = managers.make()
    for use in (lambda: manager.latest_checkpoint, manager.restore_or_initialize, manager.save):
        with pytest.raises(InvalidRequest, match="moved to gs://bucket/run"):
            use()


def test_a_tag_is_restored(managers: Managers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A word is a tag, and a path if a checkpoint of that name is there; a missing tag is told with those that there
    are. Guards against the newest in place of what was asked for."""
    manager = managers.make()
    monkeypatch.chdir(tmp_path)
    for value in (1.0, 2.0):
        manager.checkpoint.v.assign(value)
        manager.save(blocking=True)
    log = Log(open_store(managers.directory))
    hold(log, "tag", lambda state, _: state.tag(Tag("production", state.checkpoints[0].prefix, 0.0)), "")
    manager.restore("production")
    assert manager.checkpoint.v == 1.0
    with pytest.raises(InvalidRequest, match="no checkpoint of the run is tagged staging; there are: production"):
        manager.restore("staging")
    tf.train.Checkpoint(v=tf.Variable(3.0)).write("production")
    manager.restore("production")
    assert manager.checkpoint.v == 3.0


def test_tensorflow_too_finds_the_good_one_after_the_next_start(managers: Managers) -> None:
    """After the next start TensorFlow finds the good checkpoint, too. Guards against a damaged checkpoint that
    everything but Holdfast goes on loading."""
    first = managers.make()
    saved = []
    for value in (1.0, 2.0, 3.0):
        first.checkpoint.v.assign(value)
        saved.append(first.save(blocking=True))
    first.close()
    older, good, bad = saved
    data = Path(f"{bad}.data-00000-of-00001")
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    assert tf.train.latest_checkpoint(managers.directory) == bad

    second = managers.make()
    assert second.restore_or_initialize() == good
    until(lambda: tf.train.latest_checkpoint(managers.directory) == good)
    stock = tf.train.Checkpoint(v=tf.Variable(0.0))
    stock.restore(tf.train.latest_checkpoint(managers.directory)).assert_consumed()
    assert stock.v == 2.0

    newest = second.save(blocking=True)
    assert second.checkpoints == [older, good, newest]
    found = tf.train.get_checkpoint_state(managers.directory)
    assert found.model_checkpoint_path == newest
    assert list(found.all_model_checkpoint_paths) == [older, good, newest]
    state = read_run(open_store(managers.directory))
    assert state is not None
    assert state.damaged == (bad.removeprefix(f"{managers.directory}/"),)


def on_disk(managers: Managers) -> list[str]:
    return sorted(path.name for path in managers.directory.iterdir() if path.name not in ("_holdfast", "checkpoint"))


@pytest.mark.parametrize("end", ["blocking", "wait", "close"])
def test_what_is_replaced_is_gone(managers: Managers, end: str) -> None:
    """After a blocking save, `wait` and `close`, replaced checkpoints are gone. Guards against three checkpoints on a
    disk that was bought for two."""
    manager = managers.make(np.ones(1 << 20), max_to_keep=1, blocking=end == "blocking")
    for _ in range(4):
        path = manager.save()
        if end == "wait":
            manager.wait()
        if end != "close":
            assert on_disk(managers) == [Path(path).parent.name]
    manager.close()
    assert on_disk(managers) == [Path(path).parent.name]
    assert tf.train.get_checkpoint_state(str(managers.directory)).all_model_checkpoint_paths == [path]


def test_what_cannot_be_read_back_replaces_nothing(managers: Managers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that cannot be read back replaces nothing. Guards against `max_to_keep=1` that keeps the one that
    nobody can read."""
    manager = managers.make(max_to_keep=1, blocking=True)
    first = manager.save()

    def damaged(*_: object, **__: object) -> Report:
        return Report("", 0, 0, (Problem("ckpt-2.index", "damaged", "a bit has flipped"),))

    monkeypatch.setattr("holdfast_coordinator.driver.verify_checkpoint", damaged)
    second = manager.save()
    assert on_disk(managers) == [Path(path).parent.name for path in (first, second)]


def test_no_step_is_saved_twice_under_an_interval(managers: Managers) -> None:
    """With an interval no step is saved twice, as in TensorFlow. Guards against a save at the end of training that
    repeats the one before."""
    step = tf.Variable(5)
    manager = managers.make(step_counter=step, checkpoint_interval=10)
    assert manager.save() is not None
    assert manager.save(check_interval=False) is None
    step.assign(6)
    assert manager.save() is None
    assert manager.save(check_interval=False) is not None


def test_training_goes_on_after_a_restore_that_failed_halfway(managers: Managers) -> None:
    """Training goes on after a restore that failed halfway. Guards against later saves that break on files from which
    TensorFlow still reads."""
    managers.make([0.0, 0.0]).save(blocking=True)
    manager = managers.make([0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="incompatible tensor"):
        manager.restore_or_initialize()
    gc.collect()
    assert manager.save(blocking=True) == manager.latest_checkpoint
    assert manager.restore() is not None


def test_a_failed_save_is_told_after_a_restore(managers: Managers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed save is reported even after a restore. Guards against an error that a restore swallows."""
    manager = managers.make()
    manager.save(blocking=True)
    with monkeypatch.context() as broken:
        broken.setattr(PosixStore, "write", full)
        manager.save()
        manager.restore()
    with pytest.raises(SaveFailed, match="disk is full"):
        manager.save()
    manager.wait()


def test_metadata_is_that_of_the_moment(managers: Managers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata is that of the moment of the call. Guards against a later state of a history to which the program
    appends."""
    manager = managers.make()
    go_on = threading.Event()
    write = PosixStore.write
    monkeypatch.setattr(PosixStore, "write", lambda *arguments: go_on.wait(10.0) and write(*arguments))
    history = [1]
    prefix = Path(manager.save(metadata={"history": history}))
    history.append(2)
    go_on.set()
    manager.wait()
    assert json.loads((prefix.parent / "manifest.json").read_text())["metadata"] == {"history": [1]}


def test_metrics_that_are_no_json_fail_the_save_alone(managers: Managers) -> None:
    """Metrics that are not JSON fail only the save. Guards against an object among them that ends the chief's training
    while the others go on."""
    manager = managers.make()
    manager.save(metrics={"loss": object()})
    with pytest.raises(SaveFailed, match="metrics must be a mapping that JSON can hold"):
        manager.save()
    manager.wait()
    assert len(manager.checkpoints) == 1


def test_the_best_are_kept(managers: Managers) -> None:
    """The best checkpoints stay beside the newest, also those of a job that had no such rule. Guards against a best one
    that is forgotten when the program starts again, or that a loss of NaN takes the place of."""

    def kept() -> list[int]:
        return [int(each.rpartition("-")[2]) for each in manager.checkpoints]

    manager = managers.make(max_to_keep=None)
    for number, loss in enumerate([0.5, tf.constant(0.25), np.float32(0.75), float("nan")], 1):
        manager.save(number, metrics={"loss": loss})
    manager.close()
    manager = managers.make(keep=holdfast.keep.newest(1) | holdfast.keep.best(1, "loss", mode="min"))
    manager.restore_or_initialize()
    manager.save(5, metrics={"loss": 0.5}, blocking=True)
    assert kept() == [2, 5]
    manager.save(6, metrics={"loss": 0.125}, blocking=True)
    assert kept() == [6]
    manager.save(7, blocking=True)
    assert kept() == [6, 7]


def test_what_a_save_costs_is_told_with_the_next(managers: Managers, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each save the chief tells how long the one before has kept the program, its wait for the commit included.
    Guards against an advice that counts the background writing, or forgets what blocks."""
    told = []
    report = Session.report

    def noted(self: Session, chunks: Any, *arguments: Any, **named: Any) -> Any:
        chunks = list(chunks)
        told.append(chunks[0].head.cost_before_s if chunks[0].head.HasField("cost_before_s") else None)
        return report(self, chunks, *arguments, **named)

    monkeypatch.setattr(Session, "report", noted)
    manager = managers.make()
    before = time.monotonic()
    manager.save(blocking=True)
    manager.save()
    manager.wait()
    manager.save(blocking=True)
    after = time.monotonic()
    first, second, third = told
    assert first is None
    assert 0.0 < third < second, "a blocking save costs more"
    assert second + third < after - before


def test_the_snapshot_is_taken_whoever_has_heard_of_a_newer_job(
    managers: Managers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot is taken even if this worker knows of a newer job. Guards against a collective snapshot in which the
    others hang."""
    manager = managers.make()
    manager.save(blocking=True)
    taken = []
    capture = Snapshotter.capture
    monkeypatch.setattr(Snapshotter, "capture", lambda self: taken.append(1) or capture(self))
    manager._session.superseded = Superseded("a newer job leads the run")
    with pytest.raises(Superseded):
        manager.save()
    assert taken == [1]


def test_numbers_of_other_kinds_than_int(managers: Managers) -> None:
    """Checkpoint numbers of NumPy and TensorFlow are accepted. Guards against a number that can be saved and not
    restored, and half a step that is cut off."""
    manager = managers.make()
    for number in (np.int64(7), tf.constant(7), tf.Variable(7)):
        manager.save(number, blocking=True)
        manager.restore(number).assert_consumed()
    for number in (3.7, "7", -1, 1 << 63):
        with pytest.raises(InvalidRequest, match="is not an integer from 0"):
            manager.save(number)
    for wrong in (3.7, b"ckpt-7"):
        with pytest.raises(InvalidRequest, match="a path or a step"):
            manager.restore(wrong)


@pytest.mark.parametrize("name", ["save_timeout", "join_timeout", "keep_checkpoint_every_n_hours"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_times_that_never_come(managers: Managers, name: str, value: float) -> None:
    """Impossible timeouts are refused. Guards against a save without a deadline, noticed when the first worker
    hangs."""
    with pytest.raises(InvalidRequest, match=f"{name} is {value}: it must be a number from 0"):
        managers.make(**{name: value})


def test_callbacks_are_refused_and_not_forgotten(managers: Managers) -> None:
    """Callbacks in `options` are refused. Guards against a program that uploads each checkpoint when it is told, and is
    never told."""
    options = tf.train.CheckpointOptions(experimental_write_callbacks=[lambda path: None])
    with pytest.raises(InvalidRequest, match="experimental_write_callbacks"):
        managers.make().save(options=options)


def test_a_snapshot_is_let_go_of_once_it_is_written(managers: Managers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot is released once it is written. Guards against a second copy of the state in memory while other
    workers are writing."""
    manager = managers.make()
    reported = []
    report = Session.report
    monkeypatch.setattr(Session, "report", lambda *arguments: reported.append(snapshots()) or report(*arguments))
    before = snapshots()
    manager.save(blocking=True)
    assert reported == [before]


def test_an_error_keeps_no_snapshot(managers: Managers) -> None:
    """An error keeps no snapshot. Guards against the error of a newer job, kept as long as the manager, with all that
    its traceback leads to."""
    manager, newer = managers.make(), managers.make()
    before = snapshots()
    manager.save(blocking=True)
    newer.save(blocking=True)
    with suppress(Superseded):  # it may have heard of the newer one by now
        manager.save()
    for _ in range(2):
        with pytest.raises(Superseded):
            manager.save()
    assert snapshots() == before


def test_two_managers_of_one_program_are_told_what_to_do(managers: Managers) -> None:
    """The first of two managers in one directory is told what to do. Guards against an error about generations that
    does not mention the second manager."""
    latest, best = managers.make(), managers.make(checkpoint_name="best")
    latest.save(blocking=True)
    best.save(blocking=True)
    with pytest.raises(Superseded, match=r"another manager of this program.*a directory of its own"):
        latest.save(blocking=True)
    assert best.save(blocking=True) == best.latest_checkpoint


def test_nobody_is_warned_of_the_successor_of_a_closed_manager(
    managers: Managers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A manager that follows a closed one leads the run without a word. Guards against a warning, in every notebook
    and after every `fit`, that a manager which has ended can save nothing any more."""
    with holdfast.CheckpointManager(tf.train.Checkpoint(v=tf.Variable(1.0)), tmp_path / "another run") as other:
        other.save()  # while it is open, the coordinator in this process goes on
        with managers.make() as first:
            first.save()
        managers.make().save(blocking=True)
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def snapshots() -> set[int]:
    """Those that somebody still holds."""
    gc.collect()
    return {id(each) for each in gc.get_objects() if isinstance(each, Snapshot)}


def test_saves_of_several_threads_are_made_one_after_the_other(managers: Managers) -> None:
    """Saves of several threads are made one after the other. Guards against saves that overtake each other between
    snapshot and vote, and fail."""
    manager = managers.make(max_to_keep=None)
    manager.save()
    errors = []

    def work() -> None:
        try:
            for _ in range(5):
                manager.save()
        except HoldfastError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manager.wait()
    assert errors == []
    assert len(manager.checkpoints) == 21


def full(self: Any, name: str, chunks: Any) -> int:
    raise StorageError("the disk is full")


def test_an_evaluator_reads_and_does_not_save(managers: Managers, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluator reads and does not save. Guards against an unknown worker that joins the training and ends
    everybody's join."""
    managers.make(3.0).save(blocking=True)
    config = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "evaluator", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    monkeypatch.setenv("HOLDFAST_COORDINATOR", "127.0.0.1:9")
    evaluator = managers.make()
    assert evaluator.restore_or_initialize() == evaluator.latest_checkpoint
    assert evaluator.checkpoint.v.numpy() == 3.0
    with pytest.raises(InvalidRequest, match="evaluator-0 has no part in saves"):
        evaluator.save()
