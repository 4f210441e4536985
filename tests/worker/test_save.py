"""What a worker makes of the answers to its save, without a coordinator."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from holdfast.keep import newest
from holdfast.saving.save import Save, Terms
from holdfast.saving.snapshot import Snapshot, SnapshotTensor
from holdfast.session.this_task import ALONE
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CoordinatorUnavailable, HoldfastError, Kind, SaveFailed, StorageError, Superseded
from holdfast_storage.failure import Failure
from holdfast_storage.layout import OBJECT_GRAPH_KEY
from holdfast_storage.log.log import Log
from holdfast_storage.records import CheckpointRecord, Entry, Generation, Leader, LogState
from holdfast_storage.store.posix import PosixStore

TERMS = Terms("ckpt", 1.0, newest(5), "refuse", False, False)
SNAPSHOT = Snapshot((), SnapshotTensor(OBJECT_GRAPH_KEY, 7, (), b"", encoded_crc32c=0))


class StubbornSession:
    """A session that lets a save come to its vote, or to its report, and then meets every call with an error."""

    this_task = ALONE
    generation = "0123abcd"
    member = (Task("worker", 0), "p.1")
    aborted: Mapping[int, Any] = {}

    def __init__(self, error: HoldfastError, *, votes: bool = False) -> None:
        self._error = error
        self._votes = votes

    def progress(self, *_: Any) -> None:
        pass

    def forget(self, ordinal: int) -> None:
        pass

    def vote(self, *_: Any) -> pb.VoteReply:
        if self._votes:
            return pb.VoteReply(go=pb.VoteReply.Go(log_entry=0))
        raise self._error

    def report(self, *_: Any) -> Any:
        raise self._error

    def fail(self, *_: Any) -> Any:
        raise self._error


def log_of(store: PosixStore, save: Save, *, committed: bool) -> None:
    """Make a log in which the save was committed, or not, and a newer job has taken the run and retired it since."""
    leads = LogState("run").lead(Leader("w", "", ""), Generation(save.session.generation, (save.session.member,)))
    states = [leads]
    if committed:
        states.append(leads.commit(CheckpointRecord(save.prefix, 30, 1.0)))
    states.append(leads.lead(Leader("other", "", ""), Generation("ffffffff", ())))
    for number, state in enumerate(states):
        Log(store).publish(Entry(number, "commit", f"w.{number}", 1.0, state), 0.0)


def answered(directory: Path, error: HoldfastError, *, committed: bool) -> Save:
    """Return a save that is over: it was voted for, and its report was answered with an error."""
    store = PosixStore(str(directory))
    session: Any = StubbornSession(error, votes=True)
    save = Save(session, store, TERMS, ordinal=3, step=30, snapshot=SNAPSHOT)
    log_of(store, save, committed=committed)
    threading.Thread(target=save.run, daemon=True).start()
    assert save.wait(10.0)
    return save


@pytest.mark.parametrize("committed", [True, False])
def test_superseded_is_no_failure_of_a_save_that_was_committed(tmp_path: Path, committed: bool) -> None:
    """A committed save does not fail because another job leads now. Guards against a save reported as failed because
    the answer was lost before another job took the run."""
    save = answered(tmp_path, Superseded("a newer leader has taken the run"), committed=committed)
    assert isinstance(save.error, Superseded) is not committed
    assert (save.error is None) is committed


@pytest.mark.parametrize("committed", [True, False])
def test_a_refusal_after_the_report_is_no_outcome(tmp_path: Path, committed: bool) -> None:
    """A refusal after the report is no outcome. Guards against a failure reported for a save that the predecessor
    committed, because the successor cannot read the log."""
    save = answered(tmp_path, StorageError("the log cannot be read"), committed=committed)
    assert isinstance(save.error, CoordinatorUnavailable) is not committed
    assert (save.error is None) is committed


def test_what_was_reported_may_be_committed_after_it_was_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reported save may still be committed after one coordinator gave it up. Guards against a worker that hears the
    first coordinator, waits a while for the second, and reports a failure of what that one commits."""
    monkeypatch.setattr("holdfast.saving.save.LETS_GO_WITHIN", 0.1)
    session: Any = StubbornSession(SaveFailed("not asked"), votes=True)
    session.aborted = {}
    commits = threading.Event()

    def report(*_: Any) -> pb.SaveOutcome:
        session.aborted[3] = Failure(Kind.SAVE_FAILED, "not finished in time")
        assert commits.wait(10.0)
        return pb.SaveOutcome(ordinal=3, committed=True)

    session.report = report
    save = Save(session, PosixStore(str(tmp_path)), TERMS, ordinal=3, step=30, snapshot=SNAPSHOT)
    log_of(PosixStore(str(tmp_path)), save, committed=True)
    threading.Thread(target=save.run, daemon=True).start()
    assert not save.wait(0.5)
    commits.set()
    assert save.wait(10.0)
    assert save.error is None


def test_a_refusal_before_the_report_is_a_failure(tmp_path: Path) -> None:
    """A refusal before the report is a failure. Guards against doubt about a save that cannot have been committed."""
    session: Any = StubbornSession(StorageError("the log cannot be read"))
    save = Save(session, PosixStore(str(tmp_path)), TERMS, ordinal=3, step=30, snapshot=SNAPSHOT)
    threading.Thread(target=save.run, daemon=True).start()
    assert save.wait(10.0)
    assert type(save.error) is SaveFailed


@pytest.mark.parametrize("fault", ["not in the log", "of another process", "never reported"])
def test_a_commit_is_believed_of_its_own_save_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A commit is believed only for this worker's own save. Guards against a coordinator that takes this worker for
    another one and reports a commit without its state."""
    monkeypatch.setattr("holdfast_storage.lag.LAG", 0.0)
    store = PosixStore(str(tmp_path))
    session: Any = StubbornSession(SaveFailed("not asked"), votes=fault != "never reported")
    told = pb.SaveOutcome(ordinal=3, committed=True)
    session.report = lambda *_: told
    if fault == "never reported":
        session.vote = lambda *_: pb.VoteReply(decided=told)
    save = Save(session, store, TERMS, ordinal=3, step=30, snapshot=SNAPSHOT)
    log_of(store, save, committed=fault != "not in the log")
    if fault == "of another process":
        session.member = (Task("worker", 0), "p.2")
    save.run()
    assert isinstance(save.error, CoordinatorUnavailable)
    assert "is not known" in str(save.error)


def test_a_save_for_which_no_thread_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started, the save fails at once on all workers. Guards against others that wait until the
    deadline."""
    session: Any = StubbornSession(StorageError("not asked"))
    told = []

    def fail(request: pb.FailRequest, timeout: float) -> pb.SaveOutcome:
        told.append(request.failure.message)
        return pb.SaveOutcome(ordinal=3, committed=False, failure=request.failure)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    session.fail = fail
    save = Save(session, PosixStore(str(tmp_path)), TERMS, ordinal=3, step=30, snapshot=SNAPSHOT)
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        save.run()
    assert isinstance(save.error, SaveFailed)
    assert "no thread can be started" in told[0]
