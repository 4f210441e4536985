"""The coordinator as a gRPC server, with health service and reflection."""

from __future__ import annotations

import asyncio
import resource
import secrets
import signal
import socket
from types import CoroutineType

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from holdfast_protos.conventions import CONNECTION, LARGEST_CLUSTER
from holdfast_protos.v1 import coordinator_pb2, coordinator_pb2_grpc
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.logger import logger
from holdfast_storage.records import Leader

from .calls import Calls
from .grpc_servicer import GrpcServicer
from .served_runs import ServedRuns

log = logger("holdfast.coordinator")

SERVICE = coordinator_pb2.DESCRIPTOR.services_by_name["Coordinator"].full_name
CLOSE_PATIENCE = 60.0
GRACE = 0.5
"""Seconds for answers that are being sent when the server ends."""

LINGER = 1.0
"""Seconds for gRPC to let go of the calls that it has ended: many times what it needs."""

OPTIONS = [
    *CONNECTION,
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    # Two coordinators on one port would split the workers between them.
    ("grpc.so_reuseport", 0),
    # All workers of a world vote at the same moment. From 1,000 calls on, gRPC would cancel some of them.
    ("grpc.server.max_pending_requests", LARGEST_CLUSTER),
    ("grpc.server.max_pending_requests_hard_limit", LARGEST_CLUSTER),
]


class Server:
    """A gRPC server on the running asyncio loop."""

    def __init__(self, root: str = "") -> None:
        self._root = root
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()

    async def start(self, listen: str, advertise: str = "") -> None:
        """Listen on HOST:PORT; port 0 takes a free port. Raises InvalidRequest if that is not possible.

        advertise: the HOST:PORT at which others reach it. Empty: where it listens, or this host's name for all hosts.
        """
        server = self._server = grpc.aio.server(options=OPTIONS)
        host = listen.rpartition(":")[0]
        try:
            port = server.add_insecure_port(listen)
        except RuntimeError as error:
            raise InvalidRequest(
                f"cannot listen on {listen}: is the port taken, or the host not one of this machine?", object=listen
            ) from error
        wildcard = host in ("", "0.0.0.0", "[::]", "::")
        self.address = advertise or f"{socket.gethostname() if wildcard else host}:{port}"
        leader = Leader(secrets.token_hex(8), self.address, socket.gethostname())
        self.runs = ServedRuns(leader, self._root)
        self.calls = Calls(self.runs)
        coordinator_pb2_grpc.add_CoordinatorServicer_to_server(GrpcServicer(self.calls), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        await server.start()
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, patience: float = CLOSE_PATIENCE) -> None:
        """Wait for up to `patience` seconds for what is going on, then end."""
        await self._health.enter_graceful_shutdown()
        await self.runs.settle(patience)
        if self._server:
            # This comes before the runs end: a later call would wait for an answer that nobody gives.
            await self._server.stop(GRACE)
        await self.runs.close()
        # gRPC's own tasks, known by their compiled coroutines, go on for a moment. What they wait for would come
        # to a closed loop, which is an error in whichever other loop of this process uses gRPC.
        if rest := [task for task in asyncio.all_tasks() if not isinstance(task.get_coro(), CoroutineType)]:
            await asyncio.wait(rest, timeout=LINGER)


def serve(root: str, listen: str, advertise: str = "") -> None:
    """Run a coordinator until SIGTERM or SIGINT. See `Server.start`."""
    asyncio.run(_serve(root, listen, advertise))


async def _serve(root: str, listen: str, advertise: str) -> None:
    stopped = asyncio.Event()
    _raise_file_limit()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = Server(root)
    await server.start(listen, advertise)
    log.info("coordinator of the runs below %s listens on %s", root, server.address)
    await stopped.wait()
    log.info("ending")
    await server.stop(patience=10.0)


def _raise_file_limit() -> None:
    """Raise the limit of open files. Each worker is a connection, and the usual 1,024 would refuse more silently."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        except (OSError, ValueError) as error:  # macOS has a lower limit than it says
            log.warning("only %d connections are possible at once: %s", limit, error)
