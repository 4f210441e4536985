"""Every call of the protocol, given any message: an answer or a documented refusal, and nobody else is disturbed.

Messages are valid ones of a world of one with a few fields changed to what no worker would send, and those of callers
that are no members of the world that they name. A real coordinator serves them, on a folder of its own, beside a
living world whose saves go on. What is asked for: each call ends within a bound, in an answer or in a refusal of a kind
that is documented, never in a mistake of the coordinator's; nothing is written outside the run directories of those who
may; the living world's next save commits; and what is committed in between is sound.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import math
import struct
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import holdfast_coordinator.driver
import holdfast_coordinator.server
import holdfast_storage.lag
from holdfast.saving.report import report_chunks as made_report
from holdfast_coordinator.calls import Calls
from holdfast_coordinator.door import ADMITTED, Admitted
from holdfast_coordinator.driver import Refused
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.index import full_record
from holdfast_storage.checkpoint.verify import verify_checkpoint
from holdfast_storage.errors import InvalidRequest, Kind
from holdfast_storage.failure import Failure
from holdfast_storage.layout import data_object
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store
from support.coordinators import Coordinator
from support.joining import join_request
from support.light_worker import LightWorker, all_join, cluster_of, outcomes
from support.reporting import counted

EXAMPLES = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
WITHIN = 30.0  # far more than any takes, on a machine that is shared
KINDS = set(Kind) - {Kind.ERROR}

INTEGERS = [-(2**63), -(2**31), -1, 0, 1, 2, 2**31 - 1, 2**32 - 1, 2**63 - 1]
DOUBLES = [math.nan, math.inf, -math.inf, -1.0, -1e-300, 0.0, 1e308]
TEXTS = [
    "", ".", "..", "../../outside", "/outside", "a/b", "a\\b", "\0", "\n", "[*]", "x" * 300, "\u00e9", "checkpoint",
    "manifest.json", "ckpt-1.index", "data", "local/../../../outside", "s3://bucket/run", "file:///", "memory://",
    "worker", "0badcafe", "NaN", "99999999999999999999", "{", "[]", "good", "damaged", "unreadable", "refuse",
]  # fmt: skip
BYTES = [b"", b"\0", b"\1", b"\xff" * 3, b"\xff" * 8, bytes(40), b"\x00key\x00\x01\x01", b"\x08\x01" * 5]


class Beside:
    """A coordinator with a world that lives, and what others do to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.root.mkdir()
        (folder / "outside").write_text("not ours")
        self.coordinator = Coordinator(roots=[str(self.root)])
        self.living = open_store(self.root / "living")
        self.victim = open_store(self.root / "victim")
        address = self.coordinator.address
        self.workers = [LightWorker(self.living, n, cluster_of(2), coordinator=address) for n in range(2)]
        all_join(self.workers)
        self._steps = itertools.count(1)
        self._processes = itertools.count(1)
        self.save()

    @property
    def calls(self) -> Calls:
        return self.coordinator.server.calls

    def save(self) -> None:
        """The living world's next save."""
        step = next(self._steps)
        assert outcomes([worker.save(step) for worker in self.workers]) == [None, None]
        run = read_run(self.living)
        assert run is not None
        assert run.checkpoints[-1].step == step

    def check(self) -> None:
        """Nothing was written where it must not be, and what was committed is sound."""
        assert {path.name for path in self.folder.iterdir()} == {"root", "outside"}
        assert (self.folder / "outside").read_text() == "not ours"
        assert {path.name for path in self.root.iterdir()} <= {"living", "victim"}
        run = read_run(self.victim)
        for record in run.checkpoints if run else ():
            report = verify_checkpoint(self.victim, record)
            after = read_run(self.victim)
            if after and after.find(record.prefix):  # retention, which is also fuzzed, has not removed it meanwhile
                report.raise_if_bad()
        known = {self.living.url, self.victim.url}
        assert set(self.coordinator.server.runs.urls) <= known, "runs of hostile names pile up"

    def call(self, call: Awaitable[Any], may_wait: bool = False) -> Message | Refused | None:
        """The answer or the refusal; None if it waits for others, where it may."""

        async def bounded() -> Any:
            ADMITTED.set(Admitted())  # the door has let in what is called here
            try:
                return await asyncio.wait_for(call, 0.05 if may_wait else WITHIN)
            except Refused as refused:
                return refused
            except InvalidRequest as error:
                return Refused(Failure.of(error))
            except TimeoutError:
                assert may_wait, "it never ended"
                return None

        answer = self.coordinator.run(bounded(), 2 * WITHIN)
        if isinstance(answer, Refused):
            assert answer.failure.kind in KINDS, answer.failure
            assert "the coordinator failed" not in answer.failure.message
            assert answer.failure.message
        failure = getattr(answer, "failure", None) or getattr(getattr(answer, "decided", None), "failure", None)
        if isinstance(failure, pb.Failure):
            assert failure.kind in {kind.value for kind in KINDS} | {""}, failure
            assert "the coordinator failed" not in failure.message
        return answer

    def caller(self, run: str = "") -> pb.Caller:
        """A new process of the only worker of a world, which has not joined."""
        incarnation = f"process.{next(self._processes)}"
        return pb.Caller(run=run or self.victim.url, task="worker-0", incarnation=incarnation)

    def joined(self) -> pb.Caller:
        """The only worker of a new world of the other run, that has written what `report_chunks` tells of."""
        caller = self.caller()
        reply = self.call(self.calls.join(join_request(caller)))
        assert isinstance(reply, pb.JoinReply)
        caller.generation = reply.generation
        self.victim.write(f"ckpt-1.{caller.generation}.1/{data_object('ckpt-1', 0, 1)}", [b"data"])
        return caller


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holdfast_coordinator.driver, "TICK", 0.02)
        patch.setattr(holdfast_coordinator.server, "GRACE", 0.05)
        # What was reported and is not there is waited for in case that a cache hides it.
        patch.setattr(holdfast_storage.lag, "LAG", 0.0)
        made = Beside(tmp_path_factory.mktemp("calls"))
        yield made
        for worker in reversed(made.workers):
            worker.close(patience=0.0)
        made.coordinator.stop()


@pytest.fixture(autouse=True)
def undisturbed(beside: Beside, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """After each test all is as it was, and nothing was logged with a traceback."""
    caplog.set_level(logging.WARNING)
    yield
    beside.check()
    beside.save()
    assert not [record.getMessage() for record in caplog.get_records("call") if record.exc_info]


# -- messages --


def rejoin_request(caller: pb.Caller) -> pb.JoinRequest:
    request = join_request(caller)
    request.members.add(task=caller.task, incarnation=caller.incarnation)
    request.fork_point, request.restored, request.restores = "/", "ckpt-1", 1
    return request


def vote_request(caller: pb.Caller) -> pb.VoteRequest:
    return pb.VoteRequest(
        caller=caller,
        ordinal=1,
        step=1,
        checkpoint_name="ckpt",
        spec_digest=b"digest",
        crcs=struct.pack("<I", crc32c(b"data")),
        guarded=b"\1",
        on_divergence="refuse",
        timeout_s=60.0,
        specs=pb.TensorSpecs(specs=[pb.TensorSpec(key="key", dtype=1, shape=[2, 3])]).SerializeToString(),
    )


DESCRIPTION: dict[str, Any] = {
    "time": 1.0, "strategy": "", "versions": {"a": "1"}, "git_commit": "", "metadata": {"a": [1]}, "metrics": {},
    "local_keys": ["key"],
}  # fmt: skip


def report_chunks(caller: pb.Caller) -> list[pb.ReportChunk]:
    """Of a save of one tensor of four bytes."""
    name = data_object("ckpt-1", 0, 1)
    head = pb.ReportHead(
        caller=caller,
        ordinal=1,
        step=1,
        checkpoint_name="ckpt",
        num_shards=1,
        retention=pb.Retention(any_of=[pb.Retention.Rule(newest=2), pb.Retention.Rule(every_s=3600.0)]),
        timeout_s=60.0,
        description_json=json.dumps(DESCRIPTION),
    )
    key, entry = full_record("key", 1, (1,), shard=0, offset=0, size=4, crc32c=mask(crc32c(b"data")))
    stored = pb.StoredObject(name=name, size=4, crc32c=crc32c(b"data"), role="data")
    return made_report(head, [stored], [pb.IndexEntry(key=key, record=entry.SerializeToString())])


def fail_request(caller: pb.Caller) -> pb.FailRequest:
    failure = pb.Failure(kind="storage", message="disk full", phase="write", workers=[caller.task], positions=[0])
    return pb.FailRequest(caller=caller, ordinal=1, failure=failure)


def restore_request(caller: pb.Caller) -> pb.RestoreRequest:
    return pb.RestoreRequest(
        caller=caller, ordinal=1, prefix="ckpt-1", verdict="good", reason="because", timeout_s=30.0
    )


def examined_request(caller: pb.Caller) -> pb.ExaminedRequest:
    return pb.ExaminedRequest(caller=caller, prefix="ckpt-1.0123abcd.1/ckpt-1", good=["ckpt-1.index"], verdict="good")


def leave_request(caller: pb.Caller) -> pb.LeaveRequest:
    return pb.LeaveRequest(caller=caller, wait_for_others_s=0.0)


def _hostile(field: FieldDescriptor) -> Sequence[Any]:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return BYTES if field.type == FieldDescriptor.TYPE_BYTES else TEXTS
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return DOUBLES
        case FieldDescriptor.CPPTYPE_BOOL:
            return [True, False]
        case FieldDescriptor.CPPTYPE_INT32:
            return [number for number in INTEGERS if -(2**31) <= number < 2**31]
        case FieldDescriptor.CPPTYPE_UINT32:
            return [number for number in INTEGERS if 0 <= number < 2**32]
        case _:
            return INTEGERS


def mutate(draw: st.DrawFn, message: Message, times: int, sparing: Sequence[str] = ()) -> None:
    """Change a few fields, on any level, to what no worker sends. `sparing`: names of fields that stay."""
    for _ in range(times):
        where: Any = message
        while True:
            field = draw(st.sampled_from([f for f in where.DESCRIPTOR.fields if f.name not in sparing]))
            inner = field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE
            value = getattr(where, field.name)
            how = draw(st.integers(0, 3))
            if how == 0:
                where.ClearField(field.name)
            elif field.is_repeated:
                if inner and (how == 1 or not value):
                    value.add()
                elif inner and how == 2:
                    value.extend(list(value))
                elif inner:
                    where = value[draw(st.integers(0, len(value) - 1))]
                    continue
                else:
                    value.append(draw(st.sampled_from(_hostile(field))))
            elif inner:
                where = value
                continue
            else:
                setattr(where, field.name, draw(st.sampled_from(_hostile(field))))
            break


TIMES = st.integers(1, 3)


async def each(chunks: Sequence[Any]) -> Any:
    for chunk in chunks:
        yield chunk


# -- what is sent --


@EXAMPLES
@given(data=st.data())
def test_joins(beside: Beside, data: st.DataObject) -> None:
    """Any join is answered or refused. Guards against a cluster, generation or timeout that makes no sense and a world
    that nobody can be in."""
    request = join_request(beside.caller())
    if data.draw(st.booleans()):
        request.caller.generation = "0badcafe"
        request = rejoin_request(request.caller)
    mutate(data.draw, request, data.draw(TIMES), sparing=["run"])
    size = sum(len(job.addresses) for job in request.cluster)
    beside.call(beside.calls.join(request), may_wait=size > 1)


@EXAMPLES
@given(data=st.data())
def test_votes_reports_and_failures(beside: Beside, data: st.DataObject) -> None:
    """Any vote, report or failure is answered or refused. Guards against one worker whose wrong messages break more
    than its save."""
    caller = beside.joined()
    vote, fail = vote_request(caller), fail_request(caller)
    chunks = report_chunks(caller)
    wrong = data.draw(st.sampled_from([vote, fail, *chunks]))
    # What is wrong with the caller is another test.
    mutate(data.draw, wrong, data.draw(TIMES), sparing=["caller"])
    if wrong is chunks[1]:
        counted(chunks)
    calls = [
        lambda: beside.calls.vote(vote),
        lambda: beside.calls.report(each(chunks)),
        lambda: beside.calls.fail(fail),
    ]
    if data.draw(st.booleans()):
        calls.reverse()
    for call in calls:
        beside.call(call())
    beside.call(beside.calls.leave(leave_request(caller)))


@EXAMPLES
@given(text=st.one_of(st.sampled_from(TEXTS), st.just("[" * 100_000), st.just('{"a":' * 5_000 + "1" + "}" * 5_000)))
@example(text="9" * 5_000)
def test_descriptions(beside: Beside, text: str) -> None:
    """A bad description fails the save. Guards against half a manifest at the last step before the commit."""
    caller = beside.joined()
    beside.call(beside.calls.vote(vote_request(caller)))
    chunks = report_chunks(caller)
    chunks[0].head.description_json = text
    outcome = beside.call(beside.calls.report(each(chunks)))
    assert isinstance(outcome, pb.SaveOutcome)
    assert outcome.failure.kind == "save_failed"
    assert outcome.failure.workers == ["worker-0"]


@EXAMPLES
@given(data=st.data())
def test_descriptions_that_are_json(beside: Beside, data: st.DataObject) -> None:
    """A description of strange JSON fails the save or is readable. Guards against a committed manifest that nobody can
    read."""
    caller = beside.joined()
    beside.call(beside.calls.vote(vote_request(caller)))
    chunks = report_chunks(caller)
    fields = dict(DESCRIPTION)
    name = data.draw(st.sampled_from(sorted(fields)))
    if data.draw(st.booleans()):
        deep: Any = 1
        for _ in range(data.draw(st.sampled_from([1, 90, 110, 400]))):
            deep = [deep]
        odd = st.sampled_from([None, True, -1, math.nan, math.inf, 10**400, "x", "\ud800", [], [1], {}, {"a": 1}, deep])
        fields[name] = data.draw(odd)
    else:
        del fields[name]
    chunks[0].head.description_json = json.dumps(fields)
    beside.call(beside.calls.report(each(chunks)))


@EXAMPLES
@given(data=st.data())
def test_restores(beside: Beside, data: st.DataObject) -> None:
    """Any restore call is answered or refused. Guards against an unknown verdict on a candidate that was never
    proposed."""
    caller = beside.joined()
    request = restore_request(caller)
    if data.draw(st.booleans()):
        reply = beside.call(beside.calls.restore(pb.RestoreRequest(caller=caller, ordinal=1, timeout_s=30.0)))
        request.prefix = getattr(reply, "prefix", "")
    mutate(data.draw, request, data.draw(TIMES), sparing=["caller"])
    beside.call(beside.calls.restore(request))
    beside.call(beside.calls.leave(leave_request(caller)))


@EXAMPLES
@given(data=st.data())
def test_what_was_read_back(beside: Beside, data: st.DataObject) -> None:
    """Any word on what was read back is taken or refused, and nothing is removed for it. Guards against a verdict that
    nobody asked for."""
    request = examined_request(beside.workers[0].session.caller())
    if data.draw(st.booleans()):
        run = read_run(beside.living)
        assert run is not None
        request.prefix = run.checkpoints[-1].prefix
    mutate(data.draw, request, data.draw(TIMES), sparing=["caller"])
    beside.call(beside.calls.examined(request))


@EXAMPLES
@given(data=st.data())
def test_leaving_and_asking(beside: Beside, data: st.DataObject) -> None:
    """Any call to leave or ask is answered or refused. Guards against a worker that waits for ever for the others."""
    caller = beside.joined()
    request = leave_request(caller)
    mutate(data.draw, request, data.draw(TIMES), sparing=["caller"])
    beside.call(beside.calls.leave(request), may_wait=request.wait_for_others_s > 0)
    beside.call(beside.calls.status(pb.StatusRequest(run=data.draw(st.sampled_from(TEXTS)))))
    beside.call(beside.calls.status(pb.StatusRequest(run=beside.victim.url)))


@EXAMPLES
@given(data=st.data())
def test_heartbeats(beside: Beside, data: st.DataObject) -> None:
    """Heartbeats change only their own worker. Guards against a worker that speaks for another, or counts more bytes
    than there are."""
    caller = beside.joined()
    first, second = (pb.Heartbeat(caller=caller, phase="write", bytes_done=1, bytes_total=2) for _ in range(2))
    mutate(data.draw, first, data.draw(TIMES), sparing=["caller"])
    mutate(data.draw, second, data.draw(TIMES))

    async def attend() -> None:
        async for _ in beside.calls.attend(each([first, second])):
            pass

    beside.call(attend())
    status = beside.call(beside.calls.status(pb.StatusRequest(run=beside.victim.url)))
    assert isinstance(status, pb.StatusReply)
    assert all(w.bytes_done >= 0 and w.bytes_total >= 0 for w in status.run.workers)


CALLS: list[Callable[[Beside, pb.Caller], Awaitable[Any]]] = [
    lambda beside, caller: beside.calls.vote(vote_request(caller)),
    lambda beside, caller: beside.calls.report(each(report_chunks(caller))),
    lambda beside, caller: beside.calls.fail(fail_request(caller)),
    lambda beside, caller: beside.calls.restore(restore_request(caller)),
    lambda beside, caller: beside.calls.examined(examined_request(caller)),
    lambda beside, caller: beside.calls.await_upkeep(pb.AwaitUpkeepRequest(caller=caller)),
    lambda beside, caller: beside.calls.leave(leave_request(caller)),
]


@EXAMPLES
@given(data=st.data())
def test_callers_that_are_no_members(beside: Beside, data: st.DataObject) -> None:
    """Callers that are no members are refused. Guards against somebody who speaks for a worker of a living world."""
    real = beside.workers[data.draw(st.integers(0, 1))].session.caller()
    caller = pb.Caller()
    caller.CopyFrom(real)
    # Whoever knows all four of a worker's names is that worker.
    mutate(data.draw, caller, data.draw(TIMES))
    if caller == real:
        caller.incarnation = "somebody.1"
    beside.call(data.draw(st.sampled_from(CALLS))(beside, caller))


@pytest.mark.parametrize(
    "run", [*TEXTS, "../victim", "root/victim", "{root}/../outside", "{root}/..", "{folder}/outside/run"]
)
def test_run_directories_that_are_none_of_its(beside: Beside, run: str) -> None:
    """Other run directories are refused. Guards against a worker that makes the coordinator read or write anywhere."""
    run = run.format(root=beside.root, folder=beside.folder) if "root" in run or "folder" in run else run
    for call in (lambda b, c: b.calls.join(join_request(c)), *CALLS):
        caller = beside.caller()
        caller.run, caller.generation = run, ""
        answer = beside.call(call(beside, caller))
        assert isinstance(answer, Refused)


@pytest.mark.parametrize(
    "change", [{"num_shards": 2**31 - 1}, {"num_shards": 2}, {"num_shards": 0}, {"step": 2**63 - 1}]
)
def test_indexes_of_shards_that_nobody_wrote(beside: Beside, change: dict[str, int]) -> None:
    """An index with unreported shards fails the save. Guards against an index that makes readers look for two thousand
    million files."""
    caller = beside.joined()
    beside.call(beside.calls.vote(vote_request(caller)))
    chunks = report_chunks(caller)
    for name, value in change.items():
        setattr(chunks[0].head, name, value)
    answer = beside.call(beside.calls.report(each(chunks)))
    assert isinstance(answer, Refused) or not answer.committed  # type: ignore[union-attr]


def test_an_entry_beyond_the_end_of_its_shard(beside: Beside) -> None:
    """An entry beyond the end of its shard fails the save. Guards against a committed checkpoint that no reader can
    read."""
    caller = beside.joined()
    beside.call(beside.calls.vote(vote_request(caller)))
    chunks = report_chunks(caller)
    _, entry = full_record("key", 1, (1,), shard=0, offset=1, size=4, crc32c=mask(crc32c(b"data")))
    chunks[1].entries[0].record = entry.SerializeToString()
    outcome = beside.call(beside.calls.report(each(counted(chunks))))
    assert isinstance(outcome, pb.SaveOutcome)
    assert "key lies beyond the end of its shard" in outcome.failure.message


def test_what_is_valid_commits(beside: Beside) -> None:
    """What is valid commits. Guards against tests above that pass for another reason."""
    caller = beside.joined()
    beside.call(beside.calls.vote(vote_request(caller)))
    outcome = beside.call(beside.calls.report(each(report_chunks(caller))))
    assert isinstance(outcome, pb.SaveOutcome)
    assert outcome.committed, outcome
