"""How a coordinator is reached, and asked who is there: one short call, never a join."""

from __future__ import annotations

import socket

import grpc
import grpc.aio

from holdfast_protos.conventions import FAILURE_TRAILER, LARGEST_MESSAGE, LARGEST_TRAILER
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_protos.v1 import coordinator_pb2_grpc as rpc

CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    ("grpc.max_send_message_length", LARGEST_MESSAGE),
    # A refusal carries what every worker had to say, in its trailer.
    ("grpc.max_metadata_size", LARGEST_TRAILER),
    ("grpc.absolute_max_metadata_size", LARGEST_TRAILER),
    # A coordinator that was stopped, or whose host has vanished, is noticed although nothing closes the connection.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # this counts where the kernel still answers; it would be a minute
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Reconnecting is a matter of a moment, not of gRPC's two minutes: a save waits for it.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
    # A proxy between hosts of a cluster is never what was meant.
    ("grpc.enable_http_proxy", 0),
]

PATIENCE = 3.0
"""Seconds for an answer."""


class NoAnswer(Exception):
    """Nobody who can be asked is there.

    Attributes:
        hangs: whether something holds the port and does not speak: a process that was stopped, or hangs.
    """

    def __init__(self, reason: str, hangs: bool = False) -> None:
        super().__init__(reason)
        self.hangs = hangs


class NotServed(Exception):
    """A coordinator answers, and knows nothing of the run."""


def ask(address: str, run: str = "") -> pb.StatusReply:
    """What the coordinator at HOST:PORT says of a run; without one, which runs it serves.

    Raises NoAnswer within a few seconds, or NotServed.
    """
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        try:
            return rpc.CoordinatorStub(channel).Status(pb.StatusRequest(run=run), timeout=PATIENCE)
        except grpc.RpcError as error:
            raise _why(address, error) from None


def is_of_another_host(address: str, host: str) -> bool:
    """Whether an address is a loopback one of another machine: what answers at it here is somebody else."""
    return address.startswith(("127.", "localhost", "[::1]")) and host != socket.gethostname()


async def ask_whom_it_serves(address: str, host: str, run: str) -> pb.StatusReply:
    """What the coordinator at `address` on `host` says of a run; an empty reply if nobody there knows it."""
    if is_of_another_host(address, host):
        return pb.StatusReply()
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        try:
            return await rpc.CoordinatorStub(channel).Status(pb.StatusRequest(run=run), timeout=PATIENCE)
        except grpc.aio.AioRpcError:
            return pb.StatusReply()


def _why(address: str, error: grpc.RpcError) -> NoAnswer | NotServed:
    assert isinstance(error, grpc.Call)
    if any(key == FAILURE_TRAILER for key, _ in error.trailing_metadata() or ()):
        return NotServed(error.details() or "")
    match error.code():
        case grpc.StatusCode.DEADLINE_EXCEEDED if _is_held(address):
            return NoAnswer(
                f"something holds {address} and did not answer within {PATIENCE:.0f} s: it was stopped, or hangs",
                hangs=True,
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return NoAnswer(f"nobody answered at {address} within {PATIENCE:.0f} s")
        case grpc.StatusCode.UNAVAILABLE:
            return NoAnswer(f"nobody answers at {address} ({_short(error.details())})")
        case code:
            return NoAnswer(f"what answers at {address} is no coordinator ({code.name}: {_short(error.details())})")


def _is_held(address: str) -> bool:
    """Whether a connection is taken there: the kernel does so for a process that does nothing any more."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except OSError:
        return False
    return True


def _short(details: str | None) -> str:
    """gRPC tells every address that it tried and how; the end of it says why."""
    text = (details or "no reason given").rpartition(": ")[2]
    return text if len(text) < 100 else f"{text[:97]}..."
