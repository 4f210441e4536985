"""Asks a coordinator for its status: one short call, never a join."""

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
"""Seconds to wait for an answer."""


class NoAnswer(Exception):
    """No coordinator answers.

    Attributes:
        hangs: whether a process listens at the port but does not answer: it is stopped, or hangs.
    """

    def __init__(self, reason: str, hangs: bool = False) -> None:
        super().__init__(reason)
        self.hangs = hangs


class NotServed(Exception):
    """A coordinator answers, but does not know the run."""


def ask(address: str, run: str = "") -> pb.StatusReply:
    """Ask the coordinator at HOST:PORT about a run or, without one, which runs it serves.

    Raises NoAnswer within a few seconds, or NotServed.
    """
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        try:
            return rpc.CoordinatorStub(channel).Status(pb.StatusRequest(run=run), timeout=PATIENCE)
        except grpc.RpcError as error:
            raise _why(address, error) from None


def is_of_another_host(address: str, host: str) -> bool:
    """Return whether an address is a loopback address of another host, so that somebody else answers at it here."""
    return address.startswith(("127.", "localhost", "[::1]")) and host != socket.gethostname()


async def ask_whom_it_serves(address: str, host: str, run: str) -> pb.StatusReply:
    """Ask the coordinator at `address` on `host` about a run. The reply is empty if nobody there knows it."""
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
                f"a process listens at {address} but did not answer within {PATIENCE:.0f} s: it is stopped, or hangs",
                hangs=True,
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return NoAnswer(f"nobody answered at {address} within {PATIENCE:.0f} s")
        case grpc.StatusCode.UNAVAILABLE:
            return NoAnswer(f"nobody answers at {address} ({_short(error.details())})")
        case code:
            return NoAnswer(f"what answers at {address} is not a coordinator ({code.name}: {_short(error.details())})")


def _is_held(address: str) -> bool:
    """Return whether connecting works. The kernel accepts connections even for a process that is stopped."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except OSError:
        return False
    return True


def _short(details: str | None) -> str:
    """Shorten gRPC's details: it lists every address that it tried, and the end says why."""
    text = (details or "no reason given").rpartition(": ")[2]
    return text if len(text) < 100 else f"{text[:97]}..."
