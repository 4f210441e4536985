"""The calls themselves: repeated, large, broken, cancelled; and what everybody may ask."""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from holdfast.saving.report import report_chunks
from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core.machine import Machine
from holdfast_coordinator.core.messages import Caller, Now
from holdfast_coordinator.driver import Driver, Notices
from holdfast_protos.client import Access, Link, Refusal, Unreachable, ask
from holdfast_protos.conventions import MOST_TENSORS
from holdfast_protos.settings import INSECURE, Settings
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_protos.v1 import coordinator_pb2_grpc as rpc
from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.index import Index, full_record
from holdfast_storage.cluster import Task
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.layout import index_object
from holdfast_storage.records import Leader
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store
from support.coordinators import Coordinator, StartCoordinator
from support.joining import join_request
from support.light_worker import World, all_join, cluster_of, log_kinds, outcomes, together, until
from support.passing_time import PassingTime

DESCRIPTION = json.dumps(
    {
        "time": 1.0,
        "strategy": "",
        "versions": {},
        "git_commit": "",
        "metadata": {},
        "metrics": {},
        "local_keys": [],
    }
)


ANYBODY = Access("", lambda: b"", settings=Settings(insecure=True))


@pytest.fixture
def link(insecure: Coordinator) -> Iterator[Link]:
    """The way to it."""
    link = Link(insecure.address, ANYBODY)
    yield link
    link.close()


def joined(link: Link, store: Store) -> pb.Caller:
    """The only worker of a world."""
    caller = pb.Caller(run=store.url, task="worker-0", incarnation="p.1")
    caller.generation = link.join(join_request(caller), 30.0).generation
    return caller


def ballot(caller: pb.Caller, ordinal: int = 1, tensors: int = 1) -> pb.VoteRequest:
    return pb.VoteRequest(
        caller=caller,
        ordinal=ordinal,
        step=ordinal,
        checkpoint_name="ckpt",
        spec_digest=b"digest",
        crcs=crc32c(b"\0").to_bytes(4, "little") * tensors,
        guarded=b"\1" * tensors,
        on_divergence="refuse",
        timeout_s=60.0,
    )


def report(caller: pb.Caller, store: Store, ordinal: int = 1, tensors: int = 1) -> list[pb.ReportChunk]:
    """What a worker says that has written tensors of one byte each."""
    prefix = f"ckpt-{ordinal}.{caller.generation}.{ordinal}/ckpt-{ordinal}"
    name = f"{prefix}.data-00000-of-00001"
    data = bytes(tensors)
    if store.size(name) is None:
        store.write(name, [data])
    head = pb.ReportHead(
        caller=caller,
        ordinal=ordinal,
        step=ordinal,
        checkpoint_name="ckpt",
        num_shards=1,
        timeout_s=60.0,
        description_json=DESCRIPTION,
    )
    stored = pb.StoredObject(name=name.rpartition("/")[2], size=tensors, crc32c=crc32c(data), role="data")
    records = (
        full_record(f"key-{n:07d}", 4, (1,), shard=0, offset=n, size=1, crc32c=mask(crc32c(b"\0")))
        for n in range(tensors)
    )
    entries = [pb.IndexEntry(key=key, record=record.SerializeToString()) for key, record in records]
    return report_chunks(head, [stored], entries)


def test_every_call_may_be_repeated(link: Link, store: Store) -> None:
    """Every call may be repeated, with one effect and one answer. Guards against a lost answer that leads to another
    one, or to a second effect."""
    caller = joined(link, store)
    assert joined(link, store) == caller
    restore = pb.RestoreRequest(caller=caller, ordinal=1, timeout_s=30.0)
    assert [link.restore(restore, 30.0).action for _ in range(2)] == [pb.RestoreReply.NONE] * 2
    votes = [link.vote(ballot(caller), 30.0) for _ in range(2)]
    assert votes[0].HasField("go")
    assert votes[0] == votes[1]
    chunks = report(caller, store)
    answers = [link.report(chunks, 30.0) for _ in range(2)]
    assert [answer.committed for answer in answers] == [True, True]
    # A vote and a failure that come after the outcome get it, too.
    assert link.vote(ballot(caller), 30.0).decided.committed
    assert link.fail(pb.FailRequest(caller=caller, ordinal=1), 30.0).committed
    awaited = [link.await_upkeep(pb.AwaitUpkeepRequest(caller=caller), 30.0) for _ in range(2)]
    assert awaited == [pb.AwaitUpkeepReply()] * 2
    assert [link.leave(pb.LeaveRequest(caller=caller), 30.0) for _ in range(2)] == [pb.LeaveReply()] * 2
    assert log_kinds(store) == ["import", "lead", "commit"]


def test_a_call_repeated_before_its_answer_is_answered_twice(
    coordinator: Coordinator, store: Store, world: World
) -> None:
    """A call that is repeated before its answer is answered twice. Guards against a thread of the worker that waits for
    ever."""
    workers = world(2, coordinator)
    all_join(workers)
    link = Link(coordinator.address, workers[0].session._access)
    request = ballot(workers[0].session.caller())
    results: list[pb.VoteReply] = []
    threads = [threading.Thread(target=lambda: results.append(link.vote(request, 60.0))) for _ in range(2)]
    for thread in threads:
        thread.start()
    driver = coordinator.server.runs.find(store.url)
    assert driver is not None
    until(lambda: len(driver._waiting) == 2)
    with closing(Link(coordinator.address, workers[1].session._access)) as other:
        other.vote(ballot(workers[1].session.caller()), 60.0)
    for thread in threads:
        thread.join(60.0)
    assert results[0].HasField("go")
    assert results[0] == results[1]
    link.close()


def test_failures_may_be_repeated(link: Link, store: Store) -> None:
    """A failure may be reported twice. Guards against a second answer that says that the save is unknown."""
    caller = joined(link, store)
    link.vote(ballot(caller), 30.0)
    request = pb.FailRequest(caller=caller, ordinal=1, failure=pb.Failure(kind="storage", message="disk full"))
    answers = [link.fail(request, 30.0) for _ in range(2)]
    assert answers[0] == answers[1]
    assert answers[0].failure.message == "disk full"
    assert link.report(report(caller, store), 30.0) == answers[0]


def test_another_save_than_the_one_on_its_way_fails(link: Link, store: Store) -> None:
    """A call for another save than the one in flight fails. Guards against a worker that has lost count and hangs, or
    commits into the wrong save."""
    caller = joined(link, store)
    assert link.vote(ballot(caller, ordinal=2), 30.0).HasField("go")
    early = link.vote(ballot(caller, ordinal=1), 30.0).decided
    assert "have gone on to save 2 without it" in early.failure.message
    assert link.report(report(caller, store, ordinal=2), 30.0).committed


def test_a_generation_that_is_not_known_is_refused_as_such(link: Link, store: Store) -> None:
    """An unknown generation is refused as such. Guards against a worker that cannot tell a restarted coordinator from a
    refusal."""
    caller = joined(link, store)
    caller.generation = "0badcafe"
    for call in (
        lambda: link.vote(ballot(caller), 30.0),
        lambda: link.report(report(caller, store), 30.0),
        lambda: link.restore(pb.RestoreRequest(caller=caller, ordinal=1), 30.0),
    ):
        with pytest.raises(Refusal) as caught:
            call()
        assert caught.value.failure.kind == "unknown_generation"


def test_a_newer_process_of_a_task_shuts_out_the_older(link: Link, store: Store) -> None:
    """A newer process of a task shuts out the older one. Guards against a replaced process that votes for its
    successor."""
    caller = joined(link, store)
    older = pb.Caller()
    older.CopyFrom(caller)
    older.incarnation = "p.0"
    with pytest.raises(Refusal, match="a newer process of worker-0 has taken its place") as caught:
        link.vote(ballot(older), 30.0)
    assert caught.value.failure.kind == "superseded"


# -- large ones --


def test_a_vote_of_a_million_tensors(coordinator: Coordinator, store: Store, world: World) -> None:
    """A vote of as many tensors as may be arrives. Guards against a limit of messages that is below that."""
    workers = world(2, coordinator)
    all_join(workers)
    links = [Link(coordinator.address, worker.session._access) for worker in workers]
    ballots = [ballot(worker.session.caller(), tensors=MOST_TENSORS) for worker in workers]
    ballots[1].crcs = ballots[1].crcs[:-4] + b"\1\0\0\0"
    for reply in together([partial(link.vote, each, 60.0) for link, each in zip(links, ballots, strict=True)]):
        assert isinstance(reply, pb.VoteReply)
        assert list(reply.decided.failure.positions) == [MOST_TENSORS - 1]
    for link in links:
        link.close()


def test_an_index_of_twenty_thousand_tensors(link: Link, store: Store) -> None:
    """A report of twenty thousand tensors arrives. Guards against a report that is larger than a message may be."""
    caller = joined(link, store)
    link.vote(ballot(caller, tensors=20_000), 30.0)
    assert link.report(report(caller, store, tensors=20_000), 60.0).committed
    record = read_run(store).checkpoints[0]  # type: ignore[union-attr]
    assert len(Index.parse(store.read(index_object(record.prefix))).tensors) == 20_000


def test_a_long_refusal_arrives(link: Link, store: Store) -> None:
    """A long refusal arrives. Guards against reasons of hundreds of workers that do not fit into gRPC's metadata, so
    that nobody seems to answer."""
    caller = joined(link, store)
    link.vote(ballot(caller), 30.0)
    assert link.report(report(caller, store), 30.0).committed
    request = pb.RestoreRequest(caller=caller, ordinal=1, timeout_s=30.0)
    reply = link.restore(request, 30.0)
    request.prefix, request.verdict, request.reason = reply.prefix, "damaged", "ruin\u00e9 " * 50_000
    with pytest.raises(Refusal) as caught:
        link.restore(request, 30.0)
    assert caught.value.failure.kind == "storage", "the coordinator finds it good"
    assert request.reason[:12_000] in caught.value.failure.message


# -- broken ones --


@pytest.mark.parametrize("run", ["", "/", "/tmp/a[b]"])
def test_what_cannot_be_a_run_is_refused(link: Link, run: str) -> None:
    """What cannot be a run is refused. Guards against an exception that looks like a broken connection, with ten
    minutes of repeats."""
    caller = pb.Caller(run=run, task="worker-0", incarnation="p.1")
    with pytest.raises(Refusal) as caught:
        link.join(join_request(caller), 30.0)
    assert caught.value.failure.kind == "invalid_request"


def test_a_vote_that_makes_no_sense_is_answered(link: Link, store: Store) -> None:
    """A senseless vote is answered. Guards against a save that hangs until its deadline because of another version, or
    a mistake of ours."""
    caller = joined(link, store)
    request = ballot(caller)
    request.crcs = b"odd"
    assert link.vote(request, 30.0).decided.failure.kind == "invalid_request"
    assert link.vote(ballot(caller, ordinal=2), 30.0).HasField("go")


def test_records_that_make_no_index_fail_the_save(link: Link, store: Store) -> None:
    """Records that make no index fail the save. Guards against a tensor that two workers claim, and an index that every
    reader understands differently."""
    caller = joined(link, store)
    link.vote(ballot(caller), 30.0)
    first, rest = report(caller, store)
    outcome = link.report(report_chunks(first.head, rest.objects, [*rest.entries, *rest.entries]), 30.0)
    assert not outcome.committed
    assert outcome.failure.kind == "save_failed"
    assert "key-0000000" in outcome.failure.message


@pytest.mark.parametrize("description", ["", "{", "{}", "[1]"])
def test_a_description_that_makes_no_sense_fails_the_save(link: Link, store: Store, description: str) -> None:
    """A senseless description fails the save. Guards against a save that hangs in its last step before the commit."""
    caller = joined(link, store)
    link.vote(ballot(caller), 30.0)
    chunks = report(caller, store)
    chunks[0].head.description_json = description
    outcome = link.report(chunks, 30.0)
    assert not outcome.committed
    assert outcome.failure.kind == "save_failed"


def test_a_mistake_in_the_coordinator_is_an_answer(
    insecure: Coordinator, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake in the coordinator is an answer. Guards against a broken call that is repeated for as long as the save
    may take."""
    link = Link(insecure.address, ANYBODY)
    caller = joined(link, store)

    handle = Machine.handle

    def broken(machine: Machine, event: ev.Event, now: Now) -> list[fx.Effect]:
        if isinstance(event, ev.Vote):
            raise RuntimeError("a mistake of ours")
        return handle(machine, event, now)

    with monkeypatch.context() as patch:
        patch.setattr(Machine, "handle", broken)
        with pytest.raises(Refusal, match="a mistake of ours"):
            link.vote(ballot(caller), 30.0)
    assert any(r.exc_info and r.levelno == logging.ERROR for r in caplog.records)
    assert link.vote(ballot(caller), 30.0).HasField("go")
    link.close()


def test_the_clock_survives_a_mistake(
    coordinator: Coordinator, store: Store, world: World, monkeypatch: pytest.MonkeyPatch, passing: PassingTime
) -> None:
    """The clock survives a mistake. Guards against one exception after which no deadline passes any more."""
    workers = world(2, coordinator)
    all_join(workers)
    ticked = threading.Event()
    handle = Machine.handle

    def broken(machine: Machine, event: ev.Event, now: Now) -> list[fx.Effect]:
        if isinstance(event, ev.Tick):
            ticked.set()
            raise RuntimeError("a mistake of ours")
        return handle(machine, event, now)

    with monkeypatch.context() as patch:
        patch.setattr(Machine, "handle", broken)
        assert ticked.wait(60.0)
    save = workers[0].save(1)
    passing.until(lambda: not save.is_busy)
    assert "waiting for worker-1 to call save()" in str(save.error)


def test_a_state_file_that_cannot_be_written_delays_nobody(
    coordinator: Coordinator, store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state file that cannot be written delays nobody. Guards against workers that wait for a file which only stock
    readers need."""
    (worker,) = world(1, coordinator)
    worker.join()

    def broken(_: object) -> bytes:
        raise ValueError("cannot be encoded")

    with monkeypatch.context() as patch:
        patch.setattr("holdfast_storage.stock.state_file.to_bytes", broken)
        assert outcomes([worker.save(1)]) == [None]
    assert outcomes([worker.save(2)]) == [None]
    assert b"ckpt-2" in store.read("checkpoint")


def test_a_join_that_was_given_up_is_forgotten(
    insecure: Coordinator, store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A join that was given up is forgotten. Guards against a worker that is gone and completes a world."""
    link = Link(insecure.address, ANYBODY)
    caller = pb.Caller(run=store.url, task="worker-1", incarnation="gone.1")
    with pytest.raises(Unreachable):
        link.join(join_request(caller, cluster_of(2), timeout=60.0), 0.2)
    link.close()
    driver = insecure.server.runs.find(store.url)
    assert driver is not None
    until(lambda: driver.machine.forming is None or not driver.machine.forming.joiners)
    assert driver._waiting == {}
    monkeypatch.setenv(INSECURE, "1")
    all_join(world(2, insecure))


@pytest.mark.processes
def test_more_workers_than_files_that_may_be_open() -> None:
    """More workers than the usual limit of files can join. Guards against a job of 1,100 workers on a host with the
    limit 1,024."""
    code = (
        "from resource import *; from holdfast_coordinator import server; most = getrlimit(RLIMIT_NOFILE)[1]; "
        "setrlimit(RLIMIT_NOFILE, (64, most)); print(server.open_files() == getrlimit(RLIMIT_NOFILE)[0] == most)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "True"


# -- attendance --


def test_attendance_of_nobody_ends(insecure: Coordinator) -> None:
    """A stream that ends before its first heartbeat is harmless. Guards against a stream that breaks the service."""
    link = Link(insecure.address, ANYBODY)
    assert list(link.attend(iter(()))) == []
    link.close()


def test_attendance_in_a_world_that_is_not_known_is_refused(insecure: Coordinator, store: Store) -> None:
    """Attending an unknown world is refused. Guards against a worker that counts as lost because a restarted
    coordinator does not know it."""
    link = Link(insecure.address, ANYBODY)
    caller = joined(link, store)
    caller.generation = "0badcafe"
    with pytest.raises(Refusal) as caught:
        list(link.attend(iter([pb.Heartbeat(caller=caller)])))
    assert caught.value.failure.kind == "unknown_generation"
    link.close()


@pytest.mark.parametrize("how", ["ends", "cancels", "vanishes"])
def test_a_worker_is_away_when_its_stream_ends(insecure: Coordinator, store: Store, how: str) -> None:
    """A worker is away when its stream ends. Guards against listeners that pile up, and a dead worker that counts as
    present."""
    link = Link(insecure.address, ANYBODY)
    caller = joined(link, store)
    stop = threading.Event()

    def beats() -> Iterator[pb.Heartbeat]:
        yield pb.Heartbeat(caller=caller)
        stop.wait(60.0)

    call = link._stub.Attend(beats())
    until(lambda: insecure.attended_by(store.url, 1))
    if how == "ends":
        stop.set()
    elif how == "cancels":
        call.cancel()
    else:
        link.close()
    until(lambda: insecure.attended_by(store.url, 0))
    driver = insecure.server.runs.find(store.url)
    assert driver is not None
    until(lambda: driver._listeners == {})
    stop.set()
    link.close()


# -- what anybody may ask --


def test_status_tells_who_is_there(coordinator: Coordinator, store: Store, world: World) -> None:
    """The status tells who is there. Guards against an operator who cannot see for which worker a save waits."""
    workers = world(2, coordinator)
    all_join(workers)
    until(lambda: coordinator.attended_by(store.url, 2))
    status = coordinator.status(store.url)
    assert status.coordinator == coordinator.id
    assert status.run.generation == workers[0].session.generation
    assert [w.incarnation for w in status.run.workers] == [worker.session.caller().incarnation for worker in workers]
    assert status.reason == "no save is in flight"
    save = workers[0].save(5)
    until(lambda: coordinator.status(store.url).run.activity.phase == "vote")
    status = coordinator.status(store.url)
    assert (status.run.activity.step, status.reason) == (5, "waiting for worker-1 to call save()")
    assert outcomes([save, workers[1].save(5)]) == [None, None]
    assert coordinator.status(store.url).run_id


def test_status_of_a_run_that_nobody_has_called_for(insecure: Coordinator, store: Store) -> None:
    """Asking about an unknown run does not open it. Guards against a question that opens a run."""
    with pytest.raises(Refusal, match="has called here") as caught:
        ask(insecure.address, Access(store.url, lambda: b"", settings=Settings(insecure=True)))
    assert caught.value.failure.kind == "invalid_request"
    assert insecure.server.runs.find(store.url) is None


def test_health(insecure: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The health service tells whether the coordinator works. Guards against Kubernetes restarting a good coordinator
    or keeping a bad one."""
    with grpc.insecure_channel(insecure.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def status() -> int:
            request = health_pb2.HealthCheckRequest(service="holdfast_protos.v1.Coordinator")
            return stub.Check(request, timeout=30.0).status

        assert status() == health_pb2.HealthCheckResponse.SERVING
        settled = threading.Event()

        async def settle(_: float) -> None:
            while not settled.is_set():
                await asyncio.sleep(0)

        monkeypatch.setattr(insecure.server.runs, "settle", settle)
        stopping = threading.Thread(target=insecure.stop)
        stopping.start()
        until(lambda: status() == health_pb2.HealthCheckResponse.NOT_SERVING)
        settled.set()
        stopping.join(60.0)


def test_nothing_of_a_call_is_left_when_the_coordinator_has_ended(
    start: StartCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a call is left after the coordinator's end. Guards against gRPC's answer to a closed loop, an error in
    another coordinator of this process."""
    coordinator = start(insecure=True)
    came, attend = threading.Semaphore(0), coordinator.server.calls.attend
    monkeypatch.setattr(coordinator.server.calls, "attend", lambda beats: (came.release(), attend(beats))[1])
    beats, calls = queue.SimpleQueue[pb.Heartbeat | None](), list[object]()
    with ExitStack() as stack:
        for _ in range(8):
            stack.callback(beats.put, None)
            channel = stack.enter_context(grpc.insecure_channel(coordinator.address))
            calls.append(rpc.CoordinatorStub(channel).Attend(iter(beats.get, None)))  # one that is dropped is cancelled
            assert came.acquire(timeout=30.0)

        async def stop() -> list[str]:
            await coordinator.server.stop(0.0)
            own = {asyncio.current_task(), coordinator.lives_in}
            return [task.get_coro().__qualname__ for task in asyncio.all_tasks() - own]

        assert coordinator.run(stop()) == []


def test_a_worker_that_reads_no_notices(store: Store) -> None:
    """Few notices of requests wait for it, and still all that are told once. Guards against a stream whose heartbeats
    fill the coordinator's memory."""
    caller, unread = Caller("0123abcd", Task("worker", 0), "process.1"), Notices()
    last = fx.Notify(caller, Failure(Kind.SAVE_FAILED, "it failed"), 1)

    async def tell() -> None:
        driver = Driver(store, Leader("id", "", ""), 1, lambda _: None)
        driver._listeners[caller] = [unread]
        for number in range(1000):
            driver._notify(fx.Post(caller, number))
        driver._notify(last)

    asyncio.run(tell())
    told = [unread.get_nowait() for _ in range(unread.qsize())]
    assert len(told) < 100
    assert told[-1] == last
