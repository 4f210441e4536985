"""What it is worth to know where a coordinator listens: each way to call without the run's key, or in another's name.

Each is refused before anything of the call is read, and has changed nothing.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from holdfast_coordinator.embedded import Embedded
from holdfast_protos import proofs, tls
from holdfast_protos.conventions import HELLO_HEADER, PROOF_HEADER, RUN_HEADER, SECRET_HEADER
from holdfast_protos.settings import Settings
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.run_key import ensure_key, read_key
from holdfast_storage.store import open_store
from support.attackers import DATA, END_HEADERS, HEADERS, PATH, call_headers, frame, message, stranger
from support.coordinators import Coordinator, StartCoordinator, channel_to
from support.joining import join_request
from support.light_worker import LightWorker, World, all_join, committed, log_kinds, outcomes, until

T = TypeVar("T")

METHODS = [method.name for method in pb.DESCRIPTOR.services_by_name["Coordinator"].methods if method.name != "Hello"]
OF_A_RUN = {"Status", "RequestSave"}
"""Calls that any member may make, in nobody's name."""

URLS = [
    "/etc/x",
    "{root}/../x",
    "{root}/%2e%2e/x",
    "file:///etc/x",
    "FILE:///etc/x",
    "local:///etc/x",
    "memory://elsewhere/x",
    "http://127.0.0.1:1/latest/meta-data",
    "https://127.0.0.1:1/x",
    "s3://any-other-bucket/x",
    "gs://any-other-bucket/x",
    "az://any-other-container/x",
    "abfs://c@a.dfs.core.windows.net/x",
    "ftp://127.0.0.1:1/x",
    "sftp://127.0.0.1:1/x",
    "smb://127.0.0.1/x/y",
    "webhdfs://127.0.0.1:1/x",
    "hdfs://127.0.0.1:1/x",
    "github://a:b@c/x",
    "git://etc:x@y/z",
    "hf://datasets/x",
    "data://x",
    "generic:///etc",
    "reference:///etc",
    "zip://x::file:///etc",
    "tar:///etc",
    "simplecache::file:///etc",
    "filecache::http://127.0.0.1:1/x",
    "dir::file:///etc",
    "/proc/self/root/etc/x",
    "unix:/tmp/x",
    "/x\0/y",
    "s3://\0",
    "",
    "//",
    "://",
    "::",
    "x" * 1000,
]
"""Run directories of strangers: by every scheme, by every way to leave a root."""


class InChief(Coordinator):
    """The coordinator that is embedded in a job's chief."""

    def __init__(self, embedded: Embedded) -> None:
        self.server, self._embedded = embedded.server, embedded

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float = 60.0) -> T:
        return self._embedded.run(coroutine, timeout)


@pytest.fixture(params=["standalone", "embedded"])
def coordinator(request: pytest.FixtureRequest, world: World, start: StartCoordinator) -> Coordinator:
    """The coordinator of a living job with one save, for the runs below a root or for that of its own process alone."""
    alone = start() if request.param == "standalone" else None
    workers = world(2, alone or "")
    all_join(workers)
    assert outcomes([worker.save(1) for worker in workers]) == [None, None]
    made = alone or InChief(workers[0].session._embedded)  # type: ignore[arg-type]
    made.workers = workers
    return made


@pytest.fixture
def workers(coordinator: Coordinator) -> list[LightWorker]:
    return coordinator.workers


@contextmanager
def nothing_changes(coordinator: Coordinator, workers: list[LightWorker]) -> Iterator[None]:
    """Nothing of a run changes meanwhile, and its job can save afterwards."""
    store = workers[0].store

    def seen() -> tuple[Any, ...]:
        status = coordinator.status(store.url).run
        members = [(worker.worker, worker.alive) for worker in status.workers]
        return status.generation, members, log_kinds(store), coordinator.server.runs.urls

    before = seen()
    yield
    assert seen() == before
    assert outcomes([worker.save(2) for worker in workers]) == [None, None]
    assert [record.step for record in committed(store)] == [1, 2]


def called(coordinator: Coordinator, method: str, *metadata: tuple[str, str | bytes], data: bytes = b"") -> str:
    """Make a call, and return the status that it ends with, and its words."""
    with channel_to(coordinator.address) as channel:
        call = channel.stream_stream(method if method.startswith("/") else PATH + method)
        try:
            for _ in call(iter([data]), timeout=30.0, metadata=metadata):
                return "OK"
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
        return "OK"


def shown(worker: LightWorker) -> dict[str, bytes]:
    """The metadata that a worker shows."""
    assert worker.session._link is not None
    return {name: bytes(value) for name, value in worker.session._link._metadata}


def as_member(worker: LightWorker, method: str, generation: str = "") -> bytes:
    """A call's first message in the name of a worker."""
    caller = worker.session.caller()
    caller.generation = generation or caller.generation
    fields: dict[str, Any] = {"caller": caller, "ordinal": 2, "step": 2, "checkpoint_name": "ckpt", "timeout_s": 5}
    request: Any = {
        "Join": join_request(caller, worker.session.this_task.cluster),
        "Attend": pb.Heartbeat(caller=caller, phase="x"),
        "Vote": pb.VoteRequest(on_divergence="refuse", **fields),
        "Report": pb.ReportChunk(head=pb.ReportHead(num_shards=2, **fields)),
        "Fail": pb.FailRequest(caller=caller, ordinal=2, failure=pb.Failure(kind="storage", message="x")),
        "Restore": pb.RestoreRequest(caller=caller, ordinal=1, timeout_s=5),
        "Examined": pb.ExaminedRequest(caller=caller, prefix="ckpt-1", verdict="good"),
        "AwaitUpkeep": pb.AwaitUpkeepRequest(caller=caller),
        "Leave": pb.LeaveRequest(caller=caller),
        "RequestSave": pb.SaveRequest(run=caller.run, timeout_s=1.0),
        "Status": pb.StatusRequest(run=caller.run),
    }[method]
    return bytes(request.SerializeToString())


@pytest.mark.parametrize("method", METHODS)
def test_without_a_proof(coordinator: Coordinator, workers: list[LightWorker], method: str) -> None:
    """A stranger's call is refused, although it names a member rightly. Guards against a port that is a credential."""
    with nothing_changes(coordinator, workers):
        for worker in workers:
            said = called(coordinator, method, data=as_member(worker, method))
            assert said.startswith("UNAUTHENTICATED: the call carries no proof")


def test_proofs_of_something_else(
    coordinator: Coordinator, workers: list[LightWorker], start: StartCoordinator, tmp_path: Path
) -> None:
    """No other proof is taken for the run's: another run's, another coordinator's, an earlier one's, the coordinator's
    own, one of another length. Guards against what was overheard or told elsewhere being of use here."""
    worker, run = workers[1], workers[1].store
    other_key = ensure_key(open_store(tmp_path / "other"))
    key, right, nonce = read_key(run), shown(worker), secrets.token_bytes(16)
    assert key is not None
    with channel_to(coordinator.address) as channel:
        hello = channel.unary_unary(f"{PATH}Hello", response_deserializer=pb.HelloReply.FromString)
        certificate = tls.meet(coordinator.address, Settings(), 30.0).fingerprint
        request = pb.HelloRequest(run=run.url, nonce=nonce, certificate=certificate).SerializeToString()
        own = hello(b"", metadata=((HELLO_HEADER, request),), timeout=30.0).proof
    wrong = {
        "none": b"",
        "of nothing": bytes(32),
        "of another run": proofs.of_worker(other_key, coordinator.id),
        "of another coordinator": proofs.of_worker(key, start().id),
        "of no coordinator": proofs.of_worker(key, ""),
        "the coordinator's": own,
        "of an empty key": proofs.of_worker(b"", coordinator.id),
        "cut": right[PROOF_HEADER][:-1],
        "longer": right[PROOF_HEADER] + b"\0",
        "a list": right[PROOF_HEADER] + b"," + right[PROOF_HEADER],
    }
    with nothing_changes(coordinator, workers):
        for name, proof in wrong.items():
            metadata = tuple((right | {PROOF_HEADER: proof}).items())
            said = called(coordinator, "Leave", *metadata, data=as_member(worker, "Leave"))
            assert said.startswith("UNAUTHENTICATED: the proof is not made with the key"), name


def test_a_proof_that_was_overheard_is_none_after_a_restart(world: World, start: StartCoordinator) -> None:
    """What a worker has shown is worth nothing at the next coordinator process. Guards against replays."""
    before = start()
    workers = world(2, before)
    all_join(workers)
    metadata, leave = tuple(shown(workers[1]).items()), as_member(workers[1], "Leave")
    before.stop()
    after = start(before.address)
    said = called(after, "Leave", *metadata, data=leave)
    assert said.startswith("UNAUTHENTICATED: the proof is not made")
    assert outcomes([worker.save(1) for worker in workers]) == [None, None]
    until(lambda: after.attended_by(workers[0].store.url, 2))


def test_a_proof_for_one_run_with_messages_of_another(
    coordinator: Coordinator, workers: list[LightWorker], tmp_path: Path
) -> None:
    """A call for another run than the one that its proof is for is refused. Guards against a tenant of a coordinator
    who calls for all."""
    own = open_store(tmp_path / "own")
    coordinator.server.runs.adopt(own)
    metadata = (
        (RUN_HEADER, own.url.encode()),
        (PROOF_HEADER, proofs.of_worker(ensure_key(own), coordinator.id)),
        (SECRET_HEADER, shown(workers[1])[SECRET_HEADER]),
    )
    with nothing_changes(coordinator, workers):
        for method in METHODS:
            said = called(coordinator, method, *metadata, data=as_member(workers[1], method))
            assert f"INVALID_ARGUMENT: a call for {workers[1].store.url} came with the proof for" in said, method
        every = called(coordinator, "Status", *metadata, data=pb.StatusRequest().SerializeToString())
        assert "a call for all runs came with the proof for" in every


def test_calls_of_an_old_generation(coordinator: Coordinator, workers: list[LightWorker]) -> None:
    """A call for another generation than the living one changes nothing, although its caller proves all that there is
    to prove. Guards against calls that were held up, and come when others have taken over."""
    metadata = shown(workers[1])
    with nothing_changes(coordinator, workers):
        for method in set(METHODS) - OF_A_RUN - {"Join"}:
            request = as_member(workers[1], method, generation="00000000")
            said = called(coordinator, method, *metadata.items(), data=request)
            if method != "Leave":  # who leaves a world that is not there has left it
                assert "generation 00000000" in said, method


def test_another_members_name(coordinator: Coordinator, workers: list[LightWorker]) -> None:
    """A member cannot act in the name of another one. Guards against names, which everybody is told, being credentials:
    a vote, a report or a good-bye of somebody else."""
    mine, whose = shown(workers[0]), workers[1]
    with nothing_changes(coordinator, workers):
        for metadata in (mine, {**mine, SECRET_HEADER: b""}, {k: v for k, v in mine.items() if k != SECRET_HEADER}):
            for method in set(METHODS) - OF_A_RUN:
                said = called(coordinator, method, *metadata.items(), data=as_member(whose, method))
                assert "came from another process than the one that it names" in said, method


@pytest.mark.parametrize(
    "metadata",
    [
        {RUN_HEADER: b"\xff\xfe"},
        {RUN_HEADER: b"\0"},
        {RUN_HEADER: b"x" * 2000},
        {SECRET_HEADER: b"x" * 3000},
        {PROOF_HEADER: b"\xff" * 3000},
    ],
    ids=["not UTF-8", "NUL", "a long run", "a long secret", "a long proof"],
)
def test_odd_metadata(coordinator: Coordinator, workers: list[LightWorker], metadata: dict[str, bytes]) -> None:
    """Whatever stands in the metadata, the answer is a refusal in order. Guards against a door that breaks open, and
    against tracebacks in the log by whoever likes."""
    with nothing_changes(coordinator, workers):
        shows = {**shown(workers[1]), **metadata}
        said = called(coordinator, "Leave", *shows.items(), data=as_member(workers[1], "Leave"))
        assert said.startswith(("UNAUTHENTICATED", "INVALID_ARGUMENT", "UNAVAILABLE")), said
        assert "Unexpected" not in said


def test_headers_twice_and_headers_as_text(coordinator: Coordinator, workers: list[LightWorker]) -> None:
    """Of a header that comes twice one counts, for the proof and for the call alike; one without its -bin is none.
    Guards against a call that is judged by one value and carried out by the other."""
    right, leave = shown(workers[1]), as_member(workers[1], "Leave")
    with nothing_changes(coordinator, workers):
        for wrong_first in (True, False):
            twice = [(PROOF_HEADER, right[PROOF_HEADER]), (PROOF_HEADER, bytes(32))]
            rest = [(name, value) for name, value in right.items() if name != PROOF_HEADER]
            metadata = [*rest, *(reversed(twice) if wrong_first else twice)]
            if wrong_first:
                metadata.append((RUN_HEADER, b"/elsewhere"))
            assert called(coordinator, "Leave", *metadata, data=leave) != "OK"
        text = [(name.removesuffix("-bin"), value.hex()) for name, value in right.items()]
        assert called(coordinator, "Leave", *text, data=leave).startswith("UNAUTHENTICATED")


def test_run_directories_of_strangers(
    coordinator: Coordinator, workers: list[LightWorker], caplog: pytest.LogCaptureFixture
) -> None:
    """A coordinator looks only at what it was told to serve, whoever asks and however it is written. Guards against a
    stranger's URL that makes it connect somewhere, with its own credentials, or open what is not below its roots."""
    root = os.path.realpath("/tmp")
    with nothing_changes(coordinator, workers):
        for each in URLS:
            url = each.format(root=root)
            request = pb.HelloRequest(run=url, nonce=bytes(16), key_id=bytes(16)).SerializeToString()
            below = url.startswith(root) and ".." not in url and not isinstance(coordinator, InChief)
            refused = "UNAVAILABLE: the coordinator sees no" if below else "INVALID_ARGUMENT"
            assert called(coordinator, "Hello", (HELLO_HEADER, request)).startswith(refused), url
            said = called(coordinator, "Status", (RUN_HEADER, url.encode()), (PROOF_HEADER, bytes(32)))
            assert said.startswith((refused, "UNAUTHENTICATED")), url
    assert "Traceback" not in caplog.text


def test_a_hello_for_a_run_that_is_not_there(coordinator: Coordinator, tmp_path: Path) -> None:
    """Greeting a directory below a root that is none leaves nothing behind: no folder, no run, no key. Guards against
    strangers' names that cost something for as long as the coordinator lives."""
    runs = coordinator.server.runs
    before, there = runs.urls, os.listdir(tmp_path)
    for number in range(3):
        request = pb.HelloRequest(run=f"{tmp_path}/{number}", nonce=bytes(16)).SerializeToString()
        said = called(coordinator, "Hello", (HELLO_HEADER, request))
        assert said.startswith(("UNAVAILABLE: the coordinator sees no", "INVALID_ARGUMENT: the coordinator serves")), (
            said
        )
    assert os.listdir(tmp_path) == there
    assert (runs.urls, runs._opening, list(runs._directories.values())) == (before, {}, before)


@pytest.mark.parametrize("method", [*METHODS, "Hello", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"])
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_nothing_is_read_of_a_stranger(
    start: StartCoordinator, method: str, compressed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever has proven nothing has the answer while his message is still on the way. Guards against gRPC keeping in
    memory, for anybody, what a call claims to be long: 256 MiB each; and against what is inflated to more."""
    request = pb.HelloRequest(run="/nowhere", nonce=bytes(16)).SerializeToString()
    with channel_to(start().address) as channel:
        call = channel.stream_stream(method if method.startswith("/") else PATH + method)
        endless = (bytes(1 << 20) for _ in iter(int, 1))
        compression = grpc.Compression.Gzip if compressed else None
        answered = call(endless, timeout=30.0, metadata=((HELLO_HEADER, request),), compression=compression)
        if method.endswith("Check") and not compressed:
            assert next(answered)
        else:
            with pytest.raises(grpc.RpcError) as caught:
                next(answered)
            refused = {"UNAUTHENTICATED", "INVALID_ARGUMENT", "UNIMPLEMENTED" if compressed else ""}
            assert caught.value.code().name in refused
    assert "Traceback" not in caplog.text


def test_a_stranger_who_says_half_of_everything(coordinator: Coordinator, workers: list[LightWorker]) -> None:
    """A message that is announced and does not come holds nothing open: the call is refused by its head. Guards against
    half-open streams, which cost memory for as long as they last."""
    with nothing_changes(coordinator, workers), stranger(coordinator.address) as one:
        for stream in range(1, 401, 2):
            one.send(frame(HEADERS, END_HEADERS, stream, call_headers("Attend")))
            one.send(frame(DATA, 0, stream, message(bytes(1 << 20))[:100]))
        heard = b""
        while heard.count(b"UNAUTHENTICATED") + heard.count(b"carries no proof") < 1:
            heard += one.drain()
