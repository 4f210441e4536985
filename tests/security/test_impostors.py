"""Who listens where a worker looks for its coordinator, without being one of the run: in the middle, at a port that was
given up, at a name that has moved. The worker's one error names the address. It has shown nothing of use to anybody."""

from __future__ import annotations

import datetime
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import holdfast_protos.client
from holdfast.session.hint import Hint
from holdfast_coordinator.certificate import Certificate, self_made
from holdfast_protos.client import Access, Link, NoTLS, Unreachable, ask
from holdfast_protos.conventions import FAILURE_TRAILER, HELLO_HEADER, UNIX
from holdfast_protos.tls import fingerprint
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_protos.v1 import coordinator_pb2_grpc as rpc
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.failure_message import encode
from holdfast_storage.run_key import ensure_key
from holdfast_storage.store import Store, open_store
from support.coordinators import Coordinator, StartCoordinator
from support.light_worker import World, all_join, committed, outcomes, until

Serve = Callable[[socket.socket], None]
Listen = Callable[..., str]

SUBJECT_ALTERNATIVE_NAME = x509.ObjectIdentifier("2.5.29.17")


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Listen]:
    """Lets somebody listen, and returns the address. `serve` gets each connection: TLS, if there is a certificate."""
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(work: Callable[[], None]) -> None:
        def quietly() -> None:
            with suppress(OSError):
                work()

        threads.append(threading.Thread(target=quietly))
        threads[-1].start()

    def listen(serve: Serve, certificate: Certificate | None = None) -> str:
        sockets.append(listener := socket.create_server(("127.0.0.1", 0)))
        context = context_of(certificate, tmp_path) if certificate else None

        def one(connection: socket.socket) -> None:
            if context:
                connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            with connection:
                sockets.append(connection)
                if isinstance(connection, ssl.SSLSocket):
                    connection.do_handshake()
                serve(connection)

        def accept() -> None:
            while True:
                start(partial(one, listener.accept()[0]))

        start(accept)
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield listen
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
    for thread in threads:
        thread.join(10.0)
        assert not thread.is_alive()


def context_of(certificate: Certificate, folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(certificate.chain)
    key.write_bytes(certificate.key)
    context.load_cert_chain(chain, key)
    context.set_alpn_protocols(["h2"])
    return context


@pytest.fixture
def access(store: Store) -> Access:
    """What a worker of the run has."""
    return Access(store.url, lambda: ensure_key(store), b"a secret of a process")


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker waits only for a moment."""
    monkeypatch.setattr(holdfast_protos.client, "PATIENCE", 1.0)


def relay(address: str, heard: bytearray) -> Serve:
    """Pass everything on to another address, by TLS, and keep what a worker says."""
    host, _, port = address.rpartition(":")

    def serve(worker: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        with context.wrap_socket(socket.create_connection((host, int(port)))) as there:
            other = {worker: there, there: worker}
            while True:
                # One thread for both ways: Python's TLS sockets do not stand two at a time.
                ready = [side for side in other if side.pending()] or select.select(list(other), [], [])[0]  # type: ignore[attr-defined]
                for side in ready:
                    data = side.recv(65536)
                    if not data:
                        return
                    if side is worker:
                        heard.extend(data)
                    other[side].sendall(data)

    return serve


def test_one_in_the_middle(coordinator: Coordinator, access: Access, listen: Listen) -> None:
    """A worker's proof is not shown to who passes on the true coordinator's: it is bound to the certificate that the
    worker saw. Guards against a relay, which would then act as the worker."""
    heard = bytearray()
    address = listen(relay(coordinator.address, heard), self_made())
    Link(coordinator.address, access).close()
    with pytest.raises(Unreachable, match=f"{address} .*the caller has seen another certificate"):
        Link(address, access)
    assert b"holdfast-hello-bin" in heard
    assert b"holdfast-proof" not in heard
    assert b"holdfast-secret" not in heard


def test_one_who_listens_at_another_socket(world: World, store: Store) -> None:
    """A socket's proof is for its own address. Guards against a process of the host that takes the socket of a job that
    has ended, and passes on the proof of one that lives, to learn what a worker shows."""
    (worker,) = world(1)
    worker.join()
    living = worker.session._link
    assert living is not None
    assert living.address.startswith(UNIX)
    key = ensure_key(store)
    channel = grpc.insecure_channel(living.address)
    for seen in (b"", fingerprint(b"unix-abstract:holdfast-" + b"0" * 32)):
        request = pb.HelloRequest(run=store.url, nonce=bytes(16), certificate=seen)
        with pytest.raises(grpc.RpcError, match="another certificate"):
            rpc.CoordinatorStub(channel).Hello(
                pb.Nothing(), timeout=10.0, metadata=((HELLO_HEADER, request.SerializeToString()),)
            )
    channel.close()
    with closing(Link(living.address, Access(store.url, lambda: key))) as link:
        assert link.status(pb.StatusRequest(run=store.url), 10.0).run.run == store.url


def test_a_coordinator_of_another_directory(start: StartCoordinator, access: Access, tmp_path: Path) -> None:
    """A coordinator that reads another key is not believed, although it serves a run of that name: its own storage is
    mounted there. Guards against two jobs that believe to be one, and against a liar with a key of his own."""
    liar, other = start(), open_store(tmp_path / "other")
    ensure_key(other)
    liar.run(swap(liar, access.run, other))
    access.key()
    with pytest.raises(Unreachable, match="does not prove that it reads the key"):
        Link(liar.address, access)


async def swap(liar: Coordinator, url: str, other: Store) -> None:
    async def opened(_: str) -> Store:
        return other

    liar.server.runs.open = opened  # type: ignore[method-assign]


def silent(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def dripping(connection: socket.socket) -> None:
    """Begins a TLS record that never ends."""
    connection.sendall(b"\x16\x03\x03\x40\x00")
    while not threading.Event().wait(0.05):
        connection.sendall(b"\x02")


def test_one_who_says_nothing(listen: Listen, access: Access) -> None:
    """Whoever accepts a connection and says nothing, or a byte now and then, costs a worker seconds. Guards against a
    worker that hangs at a port which somebody else has taken."""
    for serve in (silent, dripping):
        with pytest.raises(Unreachable, match="no coordinator answers"):
            Link(listen(serve), access)
    with pytest.raises(Unreachable, match="no coordinator answers"):
        Link(listen(silent, self_made()), access)


def test_one_who_speaks_something_else(listen: Listen, access: Access) -> None:
    """Another protocol is no coordinator, and is shown nothing. Guards against a secret that goes over the wire as text
    to whoever does without TLS."""
    heard = bytearray()

    def web(connection: socket.socket) -> None:
        heard.extend(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    address = listen(web)
    with pytest.raises(NoTLS, match=address):
        Link(address, access)
    with pytest.raises(Unreachable, match=address):
        ask(address, access)
    assert b"a secret" not in heard


NAMES = {
    "none": b"\x30\x00",
    "an empty one": b"\x30\x02\x82\x00",
    "one with a NUL": b"\x30\x05\x82\x03a\0b",
    "one that is no text": b"\x30\x05\x82\x03a\xffb",
    "one with a line feed": b"\x30\x05\x82\x03a\nb",
    "a long one": b"\x30\x82\x13\x8c\x82\x82\x13\x88" + b"a" * 5000,
    "of a kind that nobody has": b"\x30\x04\xa3\x02\x05\x00",
    "an address of three bytes": b"\x30\x05\x87\x03abc",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_odd_certificates(listen: Listen, access: Access, name: bytes) -> None:
    """Whatever stands in a certificate of somebody, a worker goes on looking for its coordinator. Guards against an
    error of a library that ends a job."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    odd = (
        x509.CertificateBuilder(x509.Name([]), x509.Name([]), key.public_key(), 1)
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.UnrecognizedExtension(SUBJECT_ALTERNATIVE_NAME, name), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, pkcs = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private = key.private_bytes(pem, pkcs, serialization.NoEncryption())
    with pytest.raises(Unreachable):
        Link(listen(silent, Certificate(private, odd.public_bytes(pem))), access)


class Living(rpc.CoordinatorServicer):
    """Says of a generation, whose name stands in the names of folders, that a worker of it lives."""

    def __init__(self, generation: str) -> None:
        self.run = pb.RunStatus(generation=generation, workers=[pb.WorkerStatus(worker="worker-0", alive=True)])

    def Status(self, request: pb.StatusRequest, context: grpc.ServicerContext) -> pb.StatusReply:
        return pb.StatusReply(coordinator="0123456789abcdef", run=self.run)


def test_the_port_of_a_leader_that_has_died(world: World, store: Store) -> None:
    """A job takes the lead although somebody else has the port of the last leader by now, and says there without any
    proof that the last job lives. Guards against a neighbour who keeps every next job from saving."""
    before = world(2)
    all_join(before)
    assert outcomes([worker.save(1) for worker in before]) == [None, None]
    assert before[0].session._embedded
    address, generation = before[0].session._embedded.server.address, before[0].session.generation
    for worker in reversed(before):
        worker.close(0.0)
    with futures.ThreadPoolExecutor(2) as pool:
        liar = grpc.server(pool)
        rpc.add_CoordinatorServicer_to_server(Living(generation), liar)
        assert liar.add_insecure_port(address)
        liar.start()
        after = world(2)
        all_join(after)
        assert outcomes([worker.save(2) for worker in after]) == [None, None]
        liar.stop(None).wait()
    assert [record.step for record in committed(store)] == [1, 2]


class Refusing(rpc.CoordinatorServicer):
    """Ends whatever job asks it."""

    def Hello(self, request: pb.Nothing, context: grpc.ServicerContext) -> pb.HelloReply:
        failure = encode(Failure(Kind.SUPERSEDED, "the run has been taken over"))
        context.set_trailing_metadata(((FAILURE_TRAILER, failure.SerializeToString()),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no")


def test_a_hint_to_another_jobs_coordinator(start: StartCoordinator, world: World, store: Store) -> None:
    """A worker waits for its own chief where another job's coordinator has the port that the last chief had, and does
    not serve this run. Guards against a job that ends since it looked too early."""
    other = start(roots=["memory://of-another-job"])
    chief, worker = world(2)
    Hint(other.address, chief.session.this_task.cluster).write(store)
    refused = threading.Event()

    def lament(error: Exception) -> None:
        refused.set()

    worker.session._lament = lament  # type: ignore[method-assign]
    joining = threading.Thread(target=worker.join)
    joining.start()
    assert refused.wait(60.0)
    chief.join()
    joining.join(60.0)
    assert outcomes([each.save(1) for each in (chief, worker)]) == [None, None]


def test_a_refusal_of_somebody_who_has_the_port(start: StartCoordinator, world: World) -> None:
    """Who takes the port while a coordinator is being restarted cannot end the job: it goes on with the true one.
    Guards against a refusal that is believed although nothing was proven."""
    coordinator = start()
    workers = world(2, coordinator)
    all_join(workers)
    coordinator.stop()
    certificate = self_made()
    with futures.ThreadPoolExecutor(2) as pool:
        liar = grpc.server(pool)
        rpc.add_CoordinatorServicer_to_server(Refusing(), liar)
        credentials = grpc.ssl_server_credentials([(certificate.key, certificate.chain)])
        assert liar.add_secure_port(coordinator.address, credentials)
        liar.start()
        saves = [worker.save(1) for worker in workers]
        until(lambda: all("taken over" in worker.session._distrust for worker in workers))
        liar.stop(None).wait()
    start(coordinator.address)
    assert outcomes(saves) == [None, None]
    assert not [worker.session.superseded for worker in workers if worker.session.superseded]


def test_a_key_that_is_replaced_under_a_job(coordinator: Coordinator, world: World, store: Store) -> None:
    """A job goes on when the run's key is another one suddenly, and with that one. Guards against a writer of the
    directory, or a copied folder, that ends a job at its next lost connection."""
    workers = world(2, coordinator)
    all_join(workers)
    assert outcomes([worker.save(1) for worker in workers]) == [None, None]
    key = Path(store.url, "_holdfast", "key")
    key.write_bytes(b"0123456789abcdef" * 4 + b"\n")
    assert outcomes([worker.save(2) for worker in workers]) == [None, None]
    coordinator.stop()
    coordinator = Coordinator(coordinator.address)
    try:
        assert outcomes([worker.save(3) for worker in workers]) == [None, None]
    finally:
        coordinator.stop()


@pytest.mark.parametrize("text", [b"", b"\n", b"00" * 31 + b"\n", b"00" * 33 + b"\n", b"00" * 32, b"AB" * 32 + b"\n"])
def test_a_key_that_is_none(coordinator: Coordinator, world: World, store: Store, text: bytes) -> None:
    """What is no key of full length is none, and the error says so. Guards against the empty key, or one of a few
    bytes, that somebody was the first to put into a shared folder."""
    key = Path(store.url, "_holdfast", "key")
    key.parent.mkdir(parents=True)
    key.write_bytes(text)
    (worker,) = world(1, coordinator, join_timeout=0.5)
    with pytest.raises(Exception, match=r"is not the key of a run: delete it|has more than 65 bytes"):
        worker.join()
