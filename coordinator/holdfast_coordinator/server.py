"""The coordinator as a gRPC server."""

from __future__ import annotations

import asyncio
import resource
import secrets
import signal
import socket
from collections.abc import Callable, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from holdfast_protos.conventions import CONNECTION, LARGEST_CLUSTER, UNIX
from holdfast_protos.tls import fingerprint
from holdfast_protos.v1 import coordinator_pb2_grpc
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.logger import logger
from holdfast_storage.records import Leader

from .calls import Calls
from .certificate import self_made
from .door import Door
from .grpc_servicer import GrpcServicer
from .request_sizes import RequestSizes
from .run_keys import RunKeys
from .served_runs import ServedRuns
from .tokens import Tokens

if TYPE_CHECKING:  # what it needs is needed only with files
    from .tls_files import TlsFiles

log = logger("holdfast.coordinator")

CLOSE_PATIENCE = 60.0
GRACE = 0.5
"""Seconds for answers that are being sent when the server ends."""

LINGER = 10.0
"""Seconds for gRPC to let go of the calls that it has ended: many times what it needs on a machine that is busy."""

SPARE_CONNECTIONS = 96
"""How many more there may be than workers: a worker that connects first looks at the certificate, and people ask."""

OPTIONS = [
    *CONNECTION,
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    # Two coordinators on one port would split the workers between them.
    ("grpc.so_reuseport", 0),
    # All workers of a world vote at the same moment. From 1,000 calls on, gRPC would cancel some of them.
    ("grpc.server.max_pending_requests", LARGEST_CLUSTER),
    ("grpc.server.max_pending_requests_hard_limit", LARGEST_CLUSTER),
    # Who connects and says nothing, or has nothing to ask, is let go.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 30_000),
    ("grpc.max_concurrent_streams", 256),
]


class Server:
    """A gRPC server on the running asyncio loop.

    roots: the URLs at or below which runs are served, in addition to the directories that this process has open itself.
    tls: the certificate to show; None: one that is made at the start.
    tokens: those that workers show; None: they prove that they read the run's key.
    insecure: whether to speak without TLS, and to admit everybody.
    """

    def __init__(
        self,
        roots: Sequence[str] = (),
        *,
        tls: TlsFiles | None = None,
        tokens: Tokens | None = None,
        insecure: bool = False,
    ) -> None:
        self._roots = roots
        self._tls = tls
        self._tokens = tokens
        self._insecure = insecure
        self._server: grpc.aio.Server | None = None
        self._door: Door | None = None
        self.address = self.private_address = ""  # for other processes, and for this one
        self.own_key = b""  # with which this process itself calls, in the place of a run's key

    async def start(self, listen: str = "", *, advertise: str = "", embedded: bool = False) -> None:
        """Listen on HOST:PORT; port 0 takes a free port. If embedded, listen on a socket of this host too, or alone.

        advertise: the HOST:PORT at which others reach it. Empty: where it listens, or this host's name for all hosts.
        Raises InvalidRequest if it cannot listen there.
        """
        # Strangers' connections leave enough files to this process for what it has to read and write, and memory.
        files = open_files()
        connections = min(LARGEST_CLUSTER + SPARE_CONNECTIONS, files - min(256, files // 4))
        most = ("grpc.max_allowed_incoming_connections", connections)
        leader_id = secrets.token_hex(8)
        door = self._door = Door(leader_id, self._tokens, insecure=self._insecure)
        server = self._server = grpc.aio.server(interceptors=[door, RequestSizes()], options=[*OPTIONS, most])
        if embedded:
            self.address = self.private_address = f"{UNIX}holdfast-{secrets.token_hex(16)}"
            door.socket = fingerprint(self.address.encode())
            door.own_key = self.own_key = secrets.token_bytes(32)
            server.add_insecure_port(self.address)
        if listen:
            self.address = advertise or self._listen(server, door, listen)
            self.private_address = self.private_address or self.address
        leader = Leader(leader_id, self.address, socket.gethostname())
        self.runs = ServedRuns(leader, self._roots, insecure=self._insecure)
        self.calls = Calls(self.runs)
        door.keys = RunKeys(self.runs)
        coordinator_pb2_grpc.add_CoordinatorServicer_to_server(GrpcServicer(self.calls), server)
        await server.start()
        door.serving = True

    def _listen(self, server: grpc.aio.Server, door: Door, listen: str) -> str:
        """Return the address at which the server listens then."""
        host = listen.rpartition(":")[0]
        try:
            if self._insecure:
                port = server.add_insecure_port(listen)
            else:
                credentials, door.shows = self._credentials()
                port = server.add_secure_port(listen, credentials)
        except RuntimeError as error:
            raise InvalidRequest(
                f"cannot listen on {listen}: is the port taken, or the host not one of this machine?", object=listen
            ) from error
        wildcard = host in ("", "0.0.0.0", "[::]", "::")
        return f"{socket.gethostname() if wildcard else host}:{port}"

    def _credentials(self) -> tuple[grpc.ServerCredentials, Callable[[bytes], bool]]:
        """Return what the listener shows, and a function that tells whether it shows the certificate with a
        fingerprint."""
        if self._tls:
            return self._tls.credentials, self._tls.shows
        made = self_made()
        return grpc.ssl_server_credentials(
            [(made.key, made.chain)]
        ), lambda fingerprint: fingerprint == made.fingerprint

    async def stop(self, patience: float = CLOSE_PATIENCE) -> None:
        """Wait for up to `patience` seconds for what is going on, then end."""
        if self._door:
            self._door.serving = False
        await self.runs.settle(patience)
        if self._server:
            # This comes before the runs end: a later call would wait for an answer that nobody gives.
            await self._server.stop(GRACE)
        await self.runs.close()
        await self.let_go()

    async def let_go(self) -> None:
        """Take gRPC off this loop, whatever is going on, so that the loop can be closed.

        All of a process's asyncio servers share one queue of gRPC's. What a closed loop has left there is waited for by
        whoever frees the last server, for ever, with a lock that the next server needs.
        """
        if self._server:
            await self._server.stop(None)
        # gRPC's own tasks, known by their compiled coroutines, go on for a moment. What they wait for would come
        # to a closed loop, which is an error in whichever other loop of this process uses gRPC.
        if rest := [task for task in asyncio.all_tasks() if not isinstance(task.get_coro(), CoroutineType)]:
            await asyncio.wait(rest, timeout=LINGER)


def serve(roots: Sequence[str], listen: str, *, advertise: str = "", **options: Any) -> None:
    """Run a coordinator until SIGTERM or SIGINT. options: those of `Server`."""
    asyncio.run(_serve(roots, listen, advertise, options))


async def _serve(roots: Sequence[str], listen: str, advertise: str, options: dict[str, Any]) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = Server(roots, **options)
    await server.start(listen, advertise=advertise)
    log.info("coordinator of the runs below %s listens on %s", ", ".join(roots), server.address)
    if options.get("insecure"):
        log.warning("without TLS, and for everybody who reaches the port (--insecure)")
    await stopped.wait()
    log.info("ending")
    await server.stop(patience=10.0)


def open_files() -> int:
    """Raise the limit of open files as far as it goes, and return it. Each worker is a connection."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            return most
        except (OSError, ValueError) as error:  # macOS has a lower limit than it says
            log.warning("only %d connections are possible at once: %s", limit // 2, error)
    return limit
