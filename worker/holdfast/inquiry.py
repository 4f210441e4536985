"""Asking a coordinator who is there, from outside of any run: one short call, never a join."""

from __future__ import annotations

import socket

import grpc

from holdfast.link import CHANNEL_OPTIONS
from holdfast_protos.conventions import FAILURE_TRAILER
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_protos.v1 import coordinator_pb2_grpc as rpc

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
