"""Whom a worker believes: each lie of a coordinator, and the right outcome.

A lie ends in one error that names the coordinator's address. Nothing is restored or taken for committed that the run
itself does not show, nothing outside of it is opened, and the liar is told nothing about what is there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import holdfast.restoring.agree
import holdfast_storage.lag
from holdfast.restoring.own_view import may_be_of_run
from holdfast.session.answers import Disbelieved
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CoordinatorUnavailable, SaveFailed, StorageError
from holdfast_storage.layout import manifest_object
from holdfast_storage.log.log import Log
from holdfast_storage.records import CheckpointRecord, LogState
from holdfast_storage.stock import state_file
from holdfast_storage.store import Store
from support.committed import commit_run, write_checkpoint
from support.light_worker import LightWorker, World, outcomes, state
from support.lying_coordinator import ADDRESS, GENERATION, LyingCoordinator, apply, committed, read

ALONE = [Task("worker", 0)]
TENSORS = len(state().tensors)

Liar = Callable[..., tuple[LyingCoordinator, LightWorker]]


@pytest.fixture
def liar(world: World, monkeypatch: pytest.MonkeyPatch) -> Liar:
    """Makes a coordinator that says what a test wants, and the worker that has joined it."""

    def make(**says: Any) -> tuple[LyingCoordinator, LightWorker]:
        made = LyingCoordinator(**says).installed(monkeypatch)
        (worker,) = world(1, ADDRESS)
        return made, worker.join()

    return make


@pytest.fixture
def run(store: Store) -> LogState:
    """A run with two checkpoints in its log."""
    return commit_run(store, [7, 8], ALONE)


@pytest.fixture(autouse=True)
def no_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """All mounts show at once what there is."""
    monkeypatch.setattr(holdfast_storage.lag, "LAG", 0.0)


@pytest.fixture
def nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other store is opened."""

    def opened(url: str, *_: Any) -> Store:
        raise AssertionError(f"{url} was opened")

    monkeypatch.setattr(holdfast.restoring.agree, "open_store", opened)


def proposing(*replies: pb.RestoreReply) -> Callable[[pb.RestoreRequest], pb.RestoreReply]:
    """Say these, one after the other."""
    left = list(replies)
    return lambda _: left.pop(0)


def disbelieved(worker: LightWorker, target: str = "") -> str:
    """Let a worker restore, and return its error."""
    with pytest.raises(Disbelieved, match=ADDRESS) as caught:
        worker.restore(target)
    assert worker.session._restores == 0, "a restarted coordinator would be told of it"
    return str(caught.value)


def proposal(record: CheckpointRecord) -> dict[str, Any]:
    return {"step": record.step, "stock": record.stock, "manifest_crc32c": record.manifest_crc32c}


# -- what is restored --


def test_nothing_to_restore_where_the_log_has_checkpoints(run: LogState, liar: Liar) -> None:
    """It is refused. Guards against a training that starts from nothing, over weeks of work, since somebody says so."""
    _, worker = liar()
    assert "there is nothing to restore" in disbelieved(worker)


def test_nothing_to_restore_where_all_is_damaged(store: Store, run: LogState, liar: Liar) -> None:
    """It is refused: that none can be restored is an error. Guards against damage that looks like a new run."""
    entry = Log(store).tail()
    assert entry is not None
    state = entry.state.condemn([record.prefix for record in run.checkpoints])
    Log(store).publish(replace(entry, number=2, kind="damaged", write_id="leader.2", state=state), 0.0)
    _, worker = liar()
    disbelieved(worker)


def test_nothing_to_restore_where_there_are_stock_checkpoints(store: Store, liar: Liar) -> None:
    """It is refused without a log, too. Guards against a first start with Holdfast that forgets TensorFlow's own."""
    store.replace("ckpt-3.index", b"an index")
    store.replace(
        "checkpoint", state_file.to_bytes(LogState("", checkpoints=(CheckpointRecord("ckpt-3", 3, 1.0, True),)))
    )
    _, worker = liar()
    disbelieved(worker)


def test_nothing_to_restore_where_the_log_was_lost(store: Store, run: LogState, liar: Liar) -> None:
    """It is refused if only manifests tell of checkpoints. Guards against a copy of a run that starts from nothing."""
    store.delete_folder("_holdfast")
    _, worker = liar()
    disbelieved(worker)


def test_the_number_of_entries_is_a_hint(run: LogState, world: World, liar: Liar) -> None:
    """A number of log entries that there are not changes nothing. Guards against a worker that is talked out of finding
    the log."""

    def join(request: pb.JoinRequest) -> pb.JoinReply:
        members = [pb.Member(task=request.caller.task, incarnation=request.caller.incarnation)]
        return pb.JoinReply(generation=GENERATION, members=members, entries=1 << 40)

    _, worker = liar(join=join)
    disbelieved(worker)


def test_nothing_to_restore_where_there_is_nothing(liar: Liar) -> None:
    """It is believed. Guards against the tests above passing for another reason, and a new job that cannot start."""
    _, worker = liar()
    assert worker.restore() is None
    assert worker.session._restores == 1


def test_nothing_instead_of_what_was_asked_for(liar: Liar) -> None:
    """What the program has named is not "nothing". Guards against a fine-tuning that silently starts from scratch."""
    _, worker = liar()
    disbelieved(worker, "7")


@pytest.mark.parametrize("other", ["not read", "another", "other bytes", "not good"])
def test_what_was_not_verified_here_is_not_applied(store: Store, run: LogState, liar: Liar, other: str) -> None:
    """A decision about anything but what was proposed last and found good is refused. Guards against values that no
    worker has verified."""
    old, new = run.checkpoints
    if other == "not good":
        Path(f"{store.url}/{new.prefix}.index").write_bytes(b"damaged")
    said = {"another": apply(old.prefix, **proposal(old)), "other bytes": apply(new.prefix, manifest_crc32c=1)}
    decision = said.get(other, apply(new.prefix, **proposal(new)))
    first = () if other == "not read" else (read(new.prefix, **proposal(new)),)
    _, worker = liar(restore=proposing(*first, decision))
    assert "was not verified here" in disbelieved(worker)


def test_what_was_verified_here_is_applied(run: LogState, liar: Liar) -> None:
    """The truth is believed. Guards against tests that pass since nothing is ever restored."""
    new = run.checkpoints[-1]
    _, worker = liar(restore=proposing(read(new.prefix, **proposal(new)), apply(new.prefix, **proposal(new))))
    staged = worker.restore()
    assert staged is not None
    with staged:
        assert staged.record.prefix == new.prefix


PLACES = [
    "http://127.0.0.1:1/internal/run/ckpt-1.0badcafe.1/ckpt-1", "s3://bucket/run/ckpt-1", "file:///etc/shadow",
    "memory://x/y", "/etc/hostname", "/etc/shadow/x/y", "../other/ckpt-1.0badcafe.1/ckpt-1", "a/../../x", "/", ".",
    "..", "a//b", "a\0b", "ckpt-1.0badcafe.1/other", "ckpt-1.0badcafe.1/../../x",
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.usefixtures("run", "nothing_elsewhere")
def test_nothing_outside_the_run_is_opened(liar: Liar, place: str) -> None:
    """A place that only the coordinator names is not looked at, and the coordinator is not told what is there. Guards
    against a worker that asks a server of its network, restores a checkpoint that somebody has planted, or tells which
    files its host has."""
    made, worker = liar()
    for target in ("", "7", "/elsewhere/ckpt-7"):
        for stock in (False, True):
            made.says["restore"] = read(place, step=-1, stock=stock)
            disbelieved(worker, target)
    assert {request.reason for request in made.sent(pb.RestoreRequest)} == {""}


def test_what_the_program_names_is_read_wherever_it_is(store: Store, tmp_path: Path, run: LogState, liar: Liar) -> None:
    """The program's own target may lie anywhere. Guards against a fine-tuning that cannot start from another run."""
    target = f"{store.url}/{run.checkpoints[0].prefix}"
    _, worker = liar(restore=proposing(read(target, step=-1, stock=True), apply(target, step=-1, stock=True)))
    staged = worker.restore(target)
    assert staged is not None
    staged.close()


def test_what_was_never_committed_is_not_restored(store: Store, run: LogState, liar: Liar) -> None:
    """An attempt that is complete but not in the log counts as absent, and no byte of it is read. Guards against a
    coordinator that hands out what a save has left that failed."""
    record = write_checkpoint(store, run, 9, 3)
    made, worker = liar(restore=proposing(read(record.prefix, **proposal(record)), apply(record.prefix)))
    disbelieved(worker)
    told = made.sent(pb.RestoreRequest)[-1]
    assert told.verdict in ("absent", "unreadable")
    assert "does not show" in told.reason


@pytest.mark.parametrize("change", [{"manifest_crc32c": 1}, {"stock": True}])
def test_a_checkpoint_of_other_bytes(store: Store, run: LogState, liar: Liar, change: dict[str, Any]) -> None:
    """The log says which bytes a checkpoint has, and who wrote it. Guards against a manifest that was replaced, and one
    that is not looked at since TensorFlow is said to have written the checkpoint."""
    record = run.checkpoints[-1]
    store.delete_folder(record.folder)
    store.write(manifest_object(record.folder), [b"another"])
    _, worker = liar(restore=lambda _: read(record.prefix, **{**proposal(record), **change}))
    disbelieved(worker)


def test_another_step_than_was_asked_for(run: LogState, liar: Liar) -> None:
    """It is refused. Guards against a program that asks for one checkpoint and goes on from another."""
    record = run.checkpoints[-1]
    _, worker = liar(restore=lambda _: read(record.prefix, **{**proposal(record), "step": 7}))
    assert "that step 7 is" in disbelieved(worker, "7")


def test_proposals_without_end(run: LogState, liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    """They end with the restore's time. Guards against a worker that reads checkpoints for ever."""
    monkeypatch.setattr(holdfast.restoring.agree, "SLACK", 0.0)
    record = run.checkpoints[-1]
    _, worker = liar(restore=lambda _: read(record.prefix, **proposal(record)))
    with pytest.raises(CoordinatorUnavailable, match=f"{ADDRESS} goes on proposing"):
        worker.restore(timeout=0.2)


@pytest.mark.parametrize(
    "reply",
    [
        pb.RestoreReply(action=pb.RestoreReply.NONE, prefix="ckpt-1"),
        pb.RestoreReply(action=pb.RestoreReply.READ),
        pb.RestoreReply(action=pb.RestoreReply.APPLY),
        pb.RestoreReply(action=7, prefix="ckpt-1"),
        pb.RestoreReply(fork_point="x" * 5_000),
        read("x" * 5_000),
    ],
)
def test_restore_replies_that_make_no_sense(liar: Liar, reply: pb.RestoreReply) -> None:
    """They are refused. Guards against a decision of which each worker reads another part."""
    _, worker = liar(restore=reply)
    disbelieved(worker)


def test_the_names_of_a_run() -> None:
    """Names that the layout gives are the run's. Guards against a check that refuses what is right."""
    assert may_be_of_run("ckpt-10.0badcafe.1/ckpt-10", stock=False)
    assert may_be_of_run("a-b c-1.0badcafe.12/a-b c-1", stock=False)
    assert may_be_of_run("ckpt-7", stock=True)
    assert may_be_of_run("folder/model", stock=True)
    assert not may_be_of_run("ckpt-7", stock=False)
    assert not may_be_of_run("ckpt-10.0badcafe.1/ckpt-10", stock=True)


# -- what was committed --


@pytest.mark.parametrize(
    "says",
    [
        {"report": committed},
        {"vote": lambda request: pb.VoteReply(decided=committed(request))},
        {"fail": committed},
    ],
    ids=["report", "vote", "fail"],
)
def test_a_commit_that_the_log_does_not_show(run: LogState, store: Store, liar: Liar, says: dict[str, Any]) -> None:
    """No answer to any call makes a save committed. Guards against a training that goes on for weeks in the belief that
    its checkpoints exist."""
    _, worker = liar(**says)
    full = StorageError("the disk is full") if "fail" in says else None
    (error,) = outcomes([worker.save(9, local_error=full)])
    assert isinstance(error, CoordinatorUnavailable)
    assert "it is not known whether the save of step 9 was committed" in str(error)
    entry = Log(store).tail()
    assert entry is not None
    assert entry.state == run


def go(**fields: Any) -> pb.VoteReply:
    return pb.VoteReply(go=pb.VoteReply.Go(**{"log_entry": 0, **fields}))


@pytest.mark.parametrize(
    "reply",
    [
        go(worker_local=[10**6]),
        go(worker_local=[-1]),
        go(worker_local=[TENSORS]),
        go(worker_local=[0]),  # it is guarded
        go(log_entry=-5),
        go(warned=[pb.Divergence(position=10**6, tasks=["worker-0"])]),
        go(warned=[pb.Divergence(position=0, tasks=["worker-0"])]),  # divergence is refused here
        pb.VoteReply(),
        pb.VoteReply(decided=pb.SaveOutcome(ordinal=2, committed=True)),
        pb.VoteReply(decided=pb.SaveOutcome(ordinal=1)),
        pb.VoteReply(
            decided=pb.SaveOutcome(ordinal=1, committed=True, failure=pb.Failure(kind="storage", message="both"))
        ),
    ],
)
def test_verdicts_that_cannot_be(
    run: LogState, liar: Liar, reply: pb.VoteReply, caplog: pytest.LogCaptureFixture
) -> None:
    """The save fails before a byte of it is written, by the coordinator's name. Guards against an index error, a tensor
    that each worker lays elsewhere, and a wait for a log entry that cannot be."""
    made, worker = liar(vote=reply)
    (error,) = outcomes([worker.save(9)])
    assert isinstance(error, SaveFailed)
    assert ADDRESS in str(error)
    assert not made.sent(pb.ReportHead)
    assert not worker.store.list(f"ckpt-9.{GENERATION}.1")
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ("fields", "lie"),
    [
        ({"worker_local": [21, 21]}, "positions"),
        ({"worker_local": [22, 21]}, "positions"),
        ({"warned": [pb.Divergence(position=0, tasks=["worker-9"])]}, "'worker-9' as a worker"),
        ({"warned": [pb.Divergence(position=0, tasks=["\x1b[31m"])]}, "as a worker"),
        ({"warned": [pb.Divergence(position=0)] * 2}, "positions"),
        ({"warned": [pb.Divergence(position=21)]}, "which must not"),
    ],
)
def test_positions_and_names_of_those_who_differ(
    world: World, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], lie: str
) -> None:
    """Each position is once there, in order, and of a tensor of its kind; each name is a worker's. Guards against one
    tensor in two places, and names that nobody has."""
    LyingCoordinator(vote=go(**fields)).installed(monkeypatch)
    (worker,) = world(1, ADDRESS, on_divergence="warn")
    snapshot = state(local=("statistics/a", "statistics/b"))
    (error,) = outcomes([worker.join().save(9, snapshot)])
    assert lie in str(error)


@pytest.mark.parametrize("answer", [{"ordinal": 2, "committed": True}, {"ordinal": 1}])
def test_outcomes_of_another_save(run: LogState, liar: Liar, answer: dict[str, Any]) -> None:
    """After the report, an answer that makes no sense leaves the outcome to the log. Guards against the outcome of one
    save that is taken for that of another."""
    _, worker = liar(report=pb.SaveOutcome(**answer))
    (error,) = outcomes([worker.save(9)])
    assert isinstance(error, SaveFailed | CoordinatorUnavailable)


@pytest.mark.parametrize(
    "failure",
    [
        pb.Failure(
            kind="storage", message="full", workers=["no task", "", "worker-x", "worker-0"], ahead=["-", "x-01"]
        ),
        pb.Failure(kind="replica_divergence", message="differ", positions=[-1, 10**6]),
        pb.Failure(kind="no such kind", message="?"),
        pb.Failure(),
        pb.Failure(kind="unknown_generation", message="x" * 10**6),
    ],
)
def test_failures_that_make_no_sense(
    run: LogState, liar: Liar, failure: pb.Failure, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure that is told wrongly is a failure, and nothing worse. Guards against a traceback in its place."""
    decided = pb.SaveOutcome(ordinal=1, failure=failure)
    _, worker = liar(vote=pb.VoteReply(decided=decided))
    (error,) = outcomes([worker.save(9)])
    assert isinstance(error, SaveFailed)
    assert set(error.workers) <= {"worker-0"}
    assert len(str(error)) < 200_000
    assert not [record for record in caplog.records if record.exc_info]


def test_notices_without_end(liar: Liar, caplog: pytest.LogCaptureFixture) -> None:
    """They take a bounded amount of memory. Guards against a worker that grows with each save that is said to fail."""
    aborted = [pb.Notice.Aborted(ordinal=n, failure=pb.Failure(kind="storage", workers=["x"])) for n in range(5_000)]
    _, worker = liar(notices=[pb.Notice(aborted=each) for each in aborted])
    assert worker.restore() is None
    while not worker.session.aborted:
        worker.session._closed.wait(0.01)
    assert len(worker.session.aborted) <= 1_000
    caplog.set_level(logging.ERROR)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("place", [*PLACES, "ckpt-7", "../ckpt-7.0123abcd.1/ckpt-7"])
@pytest.mark.usefixtures("run", "nothing_elsewhere")
def test_nothing_outside_the_run_is_read_back(liar: Liar, place: str) -> None:
    """A worker that is asked to read what is no checkpoint of its run does not look at it, and says nothing. Guards
    against a coordinator to which workers tell which files their hosts have."""
    question = pb.Notice(read_back=pb.Notice.ReadBack(prefix=place, objects=["../../etc/passwd"]))
    made, worker = liar(notices=[question, pb.Notice(prepare=1)])
    while not worker.session.requests.promised:
        worker.session._closed.wait(0.01)
    worker.session._reading_back.end()
    worker.session._closed.wait(0.1)
    assert made.sent(pb.ExaminedRequest) == []


def test_questions_without_end(store: Store, run: LogState, liar: Liar) -> None:
    """Of many questions at once a worker takes a few, and of what the run does not hold it finds nothing good. Guards
    against a worker that does nothing but read."""
    questions = [
        pb.Notice(read_back=pb.Notice.ReadBack(prefix=run.checkpoints[0].prefix, manifest_crc32c=n, objects=["x"]))
        for n in range(1_000)
    ]
    made, worker = liar(notices=[*questions, pb.Notice(prepare=1)])
    while not worker.session.requests.promised or not made.sent(pb.ExaminedRequest):
        worker.session._closed.wait(0.01)
    assert len(made.sent(pb.ExaminedRequest)) < 900
    assert all(not each.good and each.verdict == "damaged" for each in made.sent(pb.ExaminedRequest))


# -- what the world is called --


@pytest.mark.parametrize(
    "generation", ["../../../outside/x", "a/b", "x" * 5_000, "\x1b[31m", "", "0BADCAFE", "0badcafe\n"]
)
def test_generations_that_are_none(
    world: World, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, generation: str
) -> None:
    """A generation is eight hexadecimal digits. Guards against folders that are made of what somebody says."""

    def join(request: pb.JoinRequest) -> pb.JoinReply:
        members = [pb.Member(task=request.caller.task, incarnation=request.caller.incarnation)]
        return pb.JoinReply(generation=generation, members=members)

    LyingCoordinator(join=join).installed(monkeypatch)
    (worker,) = world(1, ADDRESS)
    with pytest.raises(Disbelieved, match=ADDRESS) as caught:
        worker.join()
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not worker.session.has_joined
    assert {path.name for path in tmp_path.iterdir()} <= {"run"}


@pytest.mark.parametrize(
    "members",
    [
        [("worker-0", "somebody.else")],
        [("worker-1", "mine")],
        [("worker-0", "mine"), ("worker-1", "p.1")],
        [("worker-0\n", "mine")],
    ],
)
def test_members_that_are_not_the_job(
    world: World, monkeypatch: pytest.MonkeyPatch, members: list[tuple[str, str]]
) -> None:
    """The members are the workers of this job, and this process is one of them. Guards against a world of others, whose
    commits are taken for this one's."""

    def join(request: pb.JoinRequest) -> pb.JoinReply:
        mine = request.caller.incarnation
        named = [pb.Member(task=task, incarnation=mine if who == "mine" else who) for task, who in members]
        return pb.JoinReply(generation=GENERATION, members=named)

    LyingCoordinator(join=join).installed(monkeypatch)
    (worker,) = world(1, ADDRESS)
    with pytest.raises(Disbelieved, match="members are not the workers"):
        worker.join()
