"""What is refused before it is parsed, decompressed or waited for, over a real connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest

import holdfast_coordinator.calls
from holdfast_protos.conventions import LARGEST_MESSAGE, LARGEST_REQUEST
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_protos.v1 import coordinator_pb2_grpc as rpc
from holdfast_storage.store import Store
from support.coordinators import Coordinator
from support.joining import join_request
from support.light_worker import cluster_of, until

PATH = "/holdfast_protos.v1.Coordinator/"
EMPTY_ENTRIES = b"\x1a\x00"
"""A ReportChunk of one entry without key and record. Two bytes on the wire, an object in memory."""


@pytest.fixture
def channel(insecure: Coordinator) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(insecure.address, options=[("grpc.max_send_message_length", 1 << 30)]) as channel:
        yield channel


def refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def raw(channel: grpc.Channel, method: str) -> Callable[..., Any]:
    kind = channel.stream_unary if method == "Report" else channel.unary_unary
    return kind(PATH + method, request_serializer=bytes, response_deserializer=bytes)  # type: ignore[no-any-return]


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("method", ["Status", "Report"])
def test_nothing_compressed_is_taken(channel: grpc.Channel, method: str, algorithm: grpc.Compression) -> None:
    """A compressed message is refused as such, whatever is in it. Guards against 15 KiB that become gigabytes."""
    message = pb.StatusRequest(run="/" + "a" * (64 << 20)).SerializeToString()
    sent = iter([message]) if method == "Report" else message
    code, words = refused(lambda: raw(channel, method)(sent, timeout=30, compression=algorithm))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "is disabled" in words


@pytest.mark.parametrize("method", ["Join", "Vote", "Status", "Report", "Fail"])
def test_a_request_that_is_larger_than_any_of_its_kind(channel: grpc.Channel, method: str) -> None:
    """It is refused with its size before it is parsed; beyond the largest message of all, by gRPC. Guards against half
    a GiB of objects from 16 MiB on the wire."""
    limit = LARGEST_REQUEST.get(method, 1 << 20)
    for size in (limit + 2, LARGEST_MESSAGE + 2):
        message = EMPTY_ENTRIES * (size // 2)
        sent = iter([message]) if method == "Report" else message
        code, words = refused(lambda sent=sent: raw(channel, method)(sent, timeout=30))  # type: ignore[misc]
        if size > LARGEST_MESSAGE:
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        else:
            assert (code, words) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                f"a request has {size:,} bytes; at most {limit:,} are possible",
            )


@pytest.mark.parametrize("method", ["Join", "Vote", "Report"])
def test_a_request_that_is_no_message(channel: grpc.Channel, method: str) -> None:
    """Bytes that are no message are refused. Guards against a traceback in the log for each of them."""
    sent = iter([b"\xff\xff"]) if method == "Report" else b"\xff\xff"
    code, words = refused(lambda: raw(channel, method)(sent, timeout=30))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "no message of this service" in words


@pytest.mark.parametrize("method", ["Attend", "Report"])
def test_a_stream_that_never_says_a_word_ends(
    channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A silent stream ends. Guards against 2,000 streams that nobody sees, and that last for ever."""
    monkeypatch.setattr(holdfast_coordinator.calls, "FIRST_WORD", 0.1)
    over = threading.Event()

    def silence() -> Iterator[bytes]:
        over.wait(30.0)
        yield from ()

    kind = channel.stream_stream if method == "Attend" else channel.stream_unary
    call = kind(PATH + method, request_serializer=bytes, response_deserializer=bytes)
    code, words = refused(lambda: list(call(silence(), timeout=30)))
    over.set()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "did not go on within" in words


def test_a_report_that_never_ends(channel: grpc.Channel, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report of more than it has announced is refused at once, and one that does not end, after a while. Guards
    against one that is read for as long as its sender likes, into memory."""
    monkeypatch.setattr(holdfast_coordinator.calls, "REPORT_WITHIN", 0.2)
    caller = joined(channel, store)
    head = pb.ReportHead(
        caller=caller, ordinal=1, step=1, checkpoint_name="ckpt", num_shards=1, timeout_s=9.0, entries=2, bytes=8
    )
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield pb.ReportChunk(head=head).SerializeToString()
        while not over.is_set():
            sent += 1
            yield pb.ReportChunk(entries=[pb.IndexEntry(key=bytes(1 << 16))]).SerializeToString()

    over = threading.Event()
    code, words = refused(lambda: raw(channel, "Report")(endless(), timeout=30))
    over.set()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "says that its report has 0 objects and 2 entries in 8 bytes" in words
    assert sent < 1_000

    def stopping() -> Iterator[bytes]:
        yield pb.ReportChunk(head=head).SerializeToString()
        stopped.wait(30.0)

    stopped = threading.Event()
    code, words = refused(lambda: raw(channel, "Report")(stopping(), timeout=30))
    stopped.set()
    assert (code, "did not go on within" in words) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_heartbeats_are_paced_and_streams_give_way(
    channel: grpc.Channel, insecure: Coordinator, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However fast beats come, few are looked at; and a worker has no more than four streams. Guards against one worker
    that keeps the coordinator busy."""
    caller = joined(channel, store)
    driver = insecure.server.runs.find(store.url)
    assert driver is not None
    over = threading.Event()

    def beats() -> Iterator[bytes]:
        beat = pb.Heartbeat(caller=caller).SerializeToString()
        while not over.wait(0.0001):
            yield beat

    attend = channel.stream_stream(PATH + "Attend", request_serializer=bytes, response_deserializer=bytes)
    before = next(driver._events)
    streams = [attend(beats(), timeout=30) for _ in range(6)]
    ended = [threading.Thread(target=heard, args=(stream,), daemon=True) for stream in streams]
    for thread in ended:
        thread.start()
    until(lambda: sum(not thread.is_alive() for thread in ended) == 2)
    assert len(next(iter(driver._listeners.values()))) == 4
    over.wait(0.5)
    assert next(driver._events) - before < 6 * 50 * 3
    over.set()
    for stream in streams:
        stream.cancel()  # what was sent, and not looked at yet, would take a while
    for thread in ended:
        thread.join(10.0)


def heard(stream: Any) -> None:
    """Take what a stream says, until it ends in some way."""
    with suppress(grpc.RpcError):
        list(stream)


def joined(channel: grpc.Channel, store: Store) -> pb.Caller:
    caller = pb.Caller(run=store.url, task="worker-0", incarnation="p.1")
    reply = raw(channel, "Join")(join_request(caller).SerializeToString(), timeout=30)
    caller.generation = pb.JoinReply.FromString(reply).generation
    return caller


def test_calls_give_way_to_newer_ones(channel: grpc.Channel, insecure: Coordinator, store: Store) -> None:
    """Of a worker's calls of one kind four wait; an older one is refused, and forgotten by the state machine. Guards
    against one worker that repeats a call for ever, each of which is kept until the save is over."""
    stub = rpc.CoordinatorStub(channel)  # type: ignore[no-untyped-call,unused-ignore]
    callers = [pb.Caller(run=store.url, task=f"worker-{n}", incarnation=f"p{n}.1") for n in range(2)]
    chief, other = (stub.Join.future(join_request(caller, cluster_of(2)), timeout=30) for caller in callers)
    callers[0].generation = chief.result().generation
    vote = pb.VoteRequest(
        caller=callers[0],
        ordinal=1,
        step=1,
        checkpoint_name="ckpt",
        spec_digest=b"digest",
        crcs=bytes(4),
        guarded=b"\1",
        on_divergence="refuse",
        timeout_s=60.0,
    )
    votes = [stub.Vote.future(vote, timeout=30) for _ in range(6)]
    until(lambda: sum(each.done() for each in votes) == 2)
    driver = insecure.server.runs.find(store.url)
    assert driver is not None
    (world,) = driver.machine.worlds.values()
    assert world.attempt is not None
    assert len(world.attempt.voters) == 4
    for each in votes:
        if each.done():
            assert (each.code(), each.details()) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "newer calls than this one wait (4)",
            )
    for call in (*votes, other):
        call.cancel()
    until(lambda: not driver._waiting and not driver._calls and not world.attempt.voters)  # type: ignore[union-attr]
