"""A coordinator with certificates from files, and workers that believe an authority."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from holdfast_coordinator.tls_files import SHOWN_FOR, TlsFiles
from holdfast_protos import proofs, tls
from holdfast_protos.client import CHANNEL_OPTIONS, Access, Distrusted, Link, Unreachable, ask
from holdfast_protos.conventions import HELLO_HEADER
from holdfast_protos.settings import CA, CERTIFICATE, KEY, TOKEN_FILE, Settings
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_protos.v1 import coordinator_pb2_grpc as rpc
from holdfast_storage.errors import CoordinatorUnavailable, InvalidRequest
from holdfast_storage.run_key import ensure_key
from holdfast_storage.store import Store
from support.certificates import Authority, Pair, put
from support.coordinators import Coordinator, StartCoordinator
from support.light_worker import World, all_join, outcomes, until
from support.passing_time import PassingTime
from support.relay import relay

HOUR = timedelta(hours=1)


class Site:
    """What an operator has put in place: a coordinator's certificate by an authority, of which others know."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority, self.clients = Authority("servers"), Authority("clients")
        self.server = self.authority.signed().write(folder, "server")
        self.worker = self.clients.signed("worker").write(folder, "worker")
        self.ca = put(folder / "ca.pem", self.authority.pem)
        self.client_ca = put(folder / "client-ca.pem", self.clients.pem)

    def known_to(self, monkeypatch: pytest.MonkeyPatch, *, with_certificate: bool = False) -> None:
        """Set a worker's environment."""
        monkeypatch.setenv(CA, self.ca)
        if with_certificate:
            monkeypatch.setenv(CERTIFICATE, self.worker[0])
            monkeypatch.setenv(KEY, self.worker[1])


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    return Site(folder)


def seen(coordinator: Coordinator, settings: Settings | None = None) -> bytes:
    """The fingerprint of the certificate that a client sees now."""
    return tls.meet(coordinator.address, settings or Settings(), 10.0).fingerprint


# -- whom a worker believes --


def test_workers_believe_a_coordinator_that_their_authority_vouches_for(
    site: Site, start: StartCoordinator, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers join and save. Guards against files that nobody can use."""
    coordinator = start(tls=TlsFiles(*site.server))
    site.known_to(monkeypatch)
    workers = world(2, coordinator)
    all_join(workers)
    assert outcomes([worker.save(1) for worker in workers]) == [None, None]


def test_workers_without_an_authority_believe_the_proof(site: Site, start: StartCoordinator, world: World) -> None:
    """Workers that know no authority pin the certificate and believe the proof of the run's key, as they do without
    files. Guards against a certificate that has to be handed to everybody before anything works."""
    all_join(world(2, start(tls=TlsFiles(*site.server))))


def _another_authority(site: Site) -> Pair:
    return Authority("another").signed()


def _expired(site: Site) -> Pair:
    return site.authority.signed(ends=-HOUR)


def _not_yet_valid(site: Site) -> Pair:
    return site.authority.signed(begins=HOUR)


def _another_host(site: Site) -> Pair:
    return site.authority.signed("another.host")


@pytest.fixture
def listener() -> Iterator[Any]:
    """`listener(pair)` listens with a certificate, whatever is wrong with it, and returns its address."""
    servers = []

    def listen(pair: Pair) -> str:
        server = grpc.server(ThreadPoolExecutor(1))
        servers.append(server)
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(pair.key, pair.certificate)]))
        server.start()
        return f"127.0.0.1:{port}"

    yield listen
    for server in servers:
        server.stop(0).wait()


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (_another_authority, "unable to get local issuer certificate"),
        (_expired, "certificate has expired"),
        (_not_yet_valid, "certificate is not yet valid"),
        (_another_host, "IP address mismatch, certificate is not valid for '127.0.0.1'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_certificate_that_is_not_good_is_told_by_name(
    site: Site,
    listener: Any,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    made: Any,
    why: str,
) -> None:
    """A worker does not join a coordinator whose certificate is not good. The log says at once what is wrong with it,
    once, and the error says it within join_timeout. Guards against "nobody answers" after ten minutes."""
    address = listener(made(site))
    site.known_to(monkeypatch)
    (worker,) = world(1, address, join_timeout=1.0)
    with pytest.raises(CoordinatorUnavailable, match=why) as raised:
        worker.join()
    assert f"{CA} is {site.ca}" in str(raised.value)
    assert [why in record.getMessage() for record in caplog.records if record.name == "holdfast"] == [True]


def test_another_certificate_gets_no_proof(site: Site, start: StartCoordinator, store: Store) -> None:
    """A coordinator proves nothing for a certificate that it does not show. Guards against somebody in between, who
    shows a certificate of his own, and has the coordinator prove itself for that."""
    coordinator = start(tls=TlsFiles(*site.server))
    ensure_key(store)
    peer = tls.meet(coordinator.address, Settings(), 10.0)
    options = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", peer.name)]
    with grpc.secure_channel(coordinator.address, peer.credentials, options) as channel:
        stub = rpc.CoordinatorStub(channel)

        def proof(fingerprint: bytes, nonce: bytes = b"n" * 16) -> bytes:
            hello = pb.HelloRequest(run=store.url, nonce=nonce, certificate=fingerprint)
            metadata = ((HELLO_HEADER, hello.SerializeToString()),)
            return stub.Hello(pb.Nothing(), metadata=metadata, timeout=10.0).proof

        right = proofs.of_coordinator(ensure_key(store), coordinator.id, peer.fingerprint, b"n" * 16)
        assert proof(peer.fingerprint) == right
        for another in (secrets.token_bytes(32), b""):
            with pytest.raises(grpc.RpcError, match="another certificate"):
                proof(another)
            assert proof(another, nonce=b"") == b""


# -- certificates of clients --


@pytest.mark.parametrize("kind", ["none", "another authority's", "expired"])
def test_clients_without_a_good_certificate_do_not_come_in(
    site: Site, start: StartCoordinator, store: Store, kind: str
) -> None:
    """With --tls-client-ca, who shows no certificate of that authority learns nothing, and is told what it has shown.
    Guards against a door that is open for lack of a certificate."""
    coordinator = start(tls=TlsFiles(*site.server, site.client_ca))
    pairs = {
        "none": ("", ""),
        "another authority's": Authority("another").signed("worker").write(site.folder, "another"),
        "expired": site.clients.signed("worker", ends=-HOUR).write(site.folder, "expired"),
    }
    certificate, key = pairs[kind]
    access = Access(store.url, lambda: ensure_key(store), b"secret", Settings(site.ca, certificate, key))
    with pytest.raises(Distrusted, match="ends the connection after the handshake") as raised:
        Link(coordinator.address, access)
    assert (f"{CERTIFICATE} is {certificate}" if certificate else f"{CERTIFICATE} and {KEY} are not set") in str(
        raised.value
    )
    assert not raised.value.final


@pytest.mark.parametrize("known", [True, False])
def test_clients_with_a_certificate_come_in(
    site: Site, start: StartCoordinator, world: World, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Workers with a client certificate join, whether an authority vouches for the coordinator or its proof does.
    Guards against a client certificate that is shown on one of the two ways alone."""
    coordinator = start(tls=TlsFiles(*site.server, site.client_ca))
    site.known_to(monkeypatch, with_certificate=True)
    if not known:
        monkeypatch.delenv(CA)
    all_join(world(2, coordinator))


# -- files that are replaced --


def test_a_new_certificate_is_shown_without_a_restart(
    site: Site, start: StartCoordinator, passing: PassingTime, caplog: pytest.LogCaptureFixture
) -> None:
    """The certificate is replaced, and then its key: those who connect in between see the old one, those who come later
    the new one. Guards against a restart for every renewal, and against connections that fail while files are
    replaced."""
    files = TlsFiles(*site.server)
    coordinator = start(tls=files)
    before = seen(coordinator)
    renewed = site.authority.signed()
    put(Path(site.server[0]), renewed.certificate)
    assert [seen(coordinator) for _ in range(3)] == [before] * 3
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert f"{site.server[1]} is not the private key of the first certificate in {site.server[0]}" in errors[0]
    put(Path(site.server[1]), renewed.key)
    after = seen(coordinator)
    assert after != before
    assert files.shows(before)
    assert files.shows(after)
    passing.by(SHOWN_FOR)
    assert not files.shows(before)


def test_files_that_cannot_be_used_change_nothing(
    site: Site, start: StartCoordinator, caplog: pytest.LogCaptureFixture
) -> None:
    """A reload that fails keeps what was there, and says so once. Guards against a coordinator that a wrong file takes
    away from a job that goes on."""
    coordinator = start(tls=TlsFiles(*site.server, site.client_ca))
    settings = Settings(site.ca, *site.worker)
    for path in (*site.server, site.client_ca):
        good = Path(path).read_bytes()
        caplog.clear()
        for bad in (b"", b"nonsense"):
            put(Path(path), bad)
            seen(coordinator, settings)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert path in caplog.text
        Path(path).unlink()
        seen(coordinator, settings)
        put(Path(path), good)
        seen(coordinator, settings)


def test_a_job_goes_on_while_everything_is_replaced(
    site: Site, start: StartCoordinator, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's certificate, the authorities of both sides and the clients' certificates are replaced, each with a
    time in which old and new are good. All saves of a world whose connections break each time are committed. Guards
    against a channel that goes on with the files that it was made with."""
    coordinator = start(tls=TlsFiles(*site.server, site.client_ca))
    site.known_to(monkeypatch, with_certificate=True)
    servers, clients = Authority("new servers"), Authority("new clients")
    replacements = [
        lambda: site.authority.signed().write(site.folder, "server"),
        lambda: put(Path(site.ca), site.authority.pem + servers.pem),
        lambda: servers.signed().write(site.folder, "server"),
        lambda: put(Path(site.ca), servers.pem),
        lambda: put(Path(site.client_ca), site.clients.pem + clients.pem),
        lambda: clients.signed("worker").write(site.folder, "worker"),
        lambda: put(Path(site.client_ca), clients.pem),
    ]
    with relay(coordinator.address) as way:
        workers = world(2, way.address)
        all_join(workers)
        for step, replace in enumerate(replacements, 1):
            replace()
            way.cut()
            assert outcomes([worker.save(step) for worker in workers]) == [None, None]


def test_a_worker_comes_back_when_its_certificate_is_renewed(
    site: Site, start: StartCoordinator, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker whose client certificate is no longer good says so in the log, and goes on with its save when the file
    is replaced. Guards against a job that has to be restarted because a renewal was late."""
    coordinator = start(tls=TlsFiles(*site.server, site.client_ca))
    site.known_to(monkeypatch, with_certificate=True)
    with relay(coordinator.address) as way:
        (worker,) = world(1, way.address)
        worker.join()
        Authority("another").signed("worker").write(site.folder, "worker")
        link = worker.session._link
        way.refuses = True  # or gRPC would connect again by itself, with the certificate that was good
        way.cut()
        until(lambda: link.broken)
        way.refuses = False
        save = worker.save(1)
        while "ends the connection after the handshake" not in caplog.text:
            assert not save.wait(0.01), save.error
        site.clients.signed("worker").write(site.folder, "worker")
        assert outcomes([save]) == [None]


# -- mistakes --


def test_files_that_cannot_be_used_are_refused_at_the_start(site: Site) -> None:
    """Wrong files are refused with the file's name and what is expected. Guards against a coordinator that starts, and
    that no worker can use."""
    certificate, key = site.server
    other = Authority("another").signed().write(site.folder, "other")
    expired = _expired(site).write(site.folder, "expired")
    early = _not_yet_valid(site).write(site.folder, "early")
    readable = Path(put(site.folder / "readable.key", Path(key).read_bytes()))
    readable.chmod(0o644)
    for paths, why in [
        ((str(site.folder), key), f"{site.folder} cannot be read: Is a directory"),
        ((certificate, f"{key}.no"), f"{key}.no cannot be read: No such file or directory"),
        ((key, key), f"{key} holds no certificate in PEM form"),
        ((certificate, certificate), f"{certificate} holds no private key in PEM form"),
        ((certificate, other[1]), f"{other[1]} is not the private key of the first certificate in {certificate}"),
        (expired, f"{expired[0]} is valid from .* to .*: it has expired, or a clock is wrong"),
        (early, f"{early[0]} is valid from"),
        ((certificate, str(readable)), f"{readable} can be read by others .mode 0644.: chmod 600 {readable}"),
        ((certificate, key, key), f"{key} holds no certificate in PEM form"),
    ]:
        with pytest.raises(InvalidRequest, match=why):
            TlsFiles(*paths)


def test_settings_that_contradict_each_other_are_refused(
    site: Site, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker refuses an environment that contradicts itself. Guards against one that seems to be protected."""
    with pytest.raises(ValueError, match="belong together"):
        Settings.of({CERTIFICATE: "x"})
    with pytest.raises(ValueError, match=f"{CA} and {TOKEN_FILE} cannot be used as well"):
        Settings.of({"HOLDFAST_INSECURE": "1", CA: "x", TOKEN_FILE: "y"})
    monkeypatch.setenv(KEY, "x")
    with pytest.raises(InvalidRequest, match="belong together"):
        world(1, "127.0.0.1:1")


def test_an_embedded_coordinator_needs_none_of_it(site: Site, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says whom to believe at the address that the program names. A coordinator that the hint names is
    believed by the run's key alone. Guards against a job that cannot join since its environment names an authority."""
    monkeypatch.setenv(CA, "/nowhere")
    all_join(world(2))


def test_files_of_a_worker_that_cannot_be_used(site: Site, start: StartCoordinator, store: Store) -> None:
    """A worker's wrong files are told by name. Guards against an error of OpenSSL's that names none."""
    coordinator = start(tls=TlsFiles(*site.server))
    for settings, why in [
        (Settings("/nowhere"), "/nowhere cannot be read: No such file"),
        (Settings(site.server[1]), f"{site.server[1]} cannot be used: "),
        (Settings(site.ca, site.worker[0], site.server[1]), f"{site.worker[0]} with {site.server[1]} cannot be used: "),
    ]:
        with pytest.raises(Distrusted, match=why):
            Link(coordinator.address, Access(store.url, lambda: ensure_key(store), b"secret", settings))


def test_who_names_an_authority_asks_nobody_else(store: Store, site: Site, start: StartCoordinator) -> None:
    """Who names an authority is told nothing by a listener without TLS. Guards against a stranger that answers in the
    coordinator's place."""
    coordinator = start(insecure=True)
    with pytest.raises(Unreachable, match="no TLS is spoken there"):
        ask(coordinator.address, Access(store.url, lambda: ensure_key(store), settings=Settings(site.ca)))


def test_one_side_without_tls(store: Store, start: StartCoordinator) -> None:
    """Where one side speaks TLS and the other does not, the error names the variable. Guards against a job that finds
    "no coordinator" at an address where one listens."""
    with pytest.raises(Unreachable, match="spoken to only if HOLDFAST_INSECURE=1"):
        Link(start(insecure=True).address, Access(store.url, lambda: ensure_key(store), b"secret"))
    with pytest.raises(Unreachable, match="HOLDFAST_INSECURE is set, so one that speaks TLS is not understood"):
        ask(start().address, Access(store.url, lambda: ensure_key(store), b"secret", Settings(insecure=True)))
