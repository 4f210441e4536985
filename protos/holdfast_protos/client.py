"""A client's connection to a coordinator."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TypeVar

import grpc

from holdfast_protos.conventions import CONNECTION, FAILURE_TRAILER, LARGEST_TRAILER
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_protos.v1 import coordinator_pb2_grpc as rpc

try:
    from grpc._cython.cygrpc import fork_unregister_channel  # type: ignore[import-not-found]
except ImportError:  # a private name, which a release may drop
    fork_unregister_channel = None

T = TypeVar("T")

CHANNEL_OPTIONS = [
    *CONNECTION,
    # A refusal carries what every worker had to say, in its trailer.
    ("grpc.max_metadata_size", LARGEST_TRAILER),
    ("grpc.absolute_max_metadata_size", LARGEST_TRAILER),
    ("grpc.http2.max_pings_without_data", 0),
    # Reconnecting is a matter of a moment, not of gRPC's two minutes: a save waits for it.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
    # A proxy between hosts of a cluster is never what was meant.
    ("grpc.enable_http_proxy", 0),
]

PATIENCE = 3.0
"""Seconds to wait for an answer."""


class Unreachable(Exception):
    """The coordinator did not answer.

    Attributes:
        code: the name of gRPC's status; empty if the call was not even made.
        details: gRPC's own words.
    """

    def __init__(self, message: str, code: str = "", details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.details = details


class Refusal(Exception):
    """The coordinator refused the call."""

    def __init__(self, failure: pb.Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Link:
    """A coordinator at an address. Calls raise Unreachable or Refusal; `timeout` is in seconds."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        # No fork uses it. Under GRPC_ENABLE_FORK_SUPPORT, gRPC would cancel its calls in each, and can hang for ever.
        # An older gRPC, which has no `_postfork_child`, closes channels instead, and ends a fork that keeps one open.
        if fork_unregister_channel and hasattr(self._channel, "_postfork_child"):
            fork_unregister_channel(self._channel)
        self._stub = rpc.CoordinatorStub(self._channel)

    def join(self, request: pb.JoinRequest, timeout: float) -> pb.JoinReply:
        return self._call(lambda: self._stub.Join(request, timeout=timeout))

    def vote(self, request: pb.VoteRequest, timeout: float) -> pb.VoteReply:
        return self._call(lambda: self._stub.Vote(request, timeout=timeout))

    def report(self, chunks: list[pb.ReportChunk], timeout: float) -> pb.SaveOutcome:
        return self._call(lambda: self._stub.Report(iter(chunks), timeout=timeout))

    def fail(self, request: pb.FailRequest, timeout: float) -> pb.SaveOutcome:
        return self._call(lambda: self._stub.Fail(request, timeout=timeout))

    def restore(self, request: pb.RestoreRequest, timeout: float) -> pb.RestoreReply:
        return self._call(lambda: self._stub.Restore(request, timeout=timeout))

    def await_upkeep(self, request: pb.AwaitUpkeepRequest, timeout: float) -> pb.AwaitUpkeepReply:
        return self._call(lambda: self._stub.AwaitUpkeep(request, timeout=timeout))

    def leave(self, request: pb.LeaveRequest, timeout: float) -> pb.LeaveReply:
        return self._call(lambda: self._stub.Leave(request, timeout=timeout))

    def status(self, request: pb.StatusRequest, timeout: float) -> pb.StatusReply:
        return self._call(lambda: self._stub.Status(request, timeout=timeout))

    def attend(self, beats: Iterator[pb.Heartbeat]) -> Iterator[pb.Notice]:
        """Be present for as long as `beats` goes on, and yield notices."""
        call = self._call(lambda: self._stub.Attend(beats))
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._translated(error) from None
        finally:
            call.cancel()

    def close(self) -> None:
        self._channel.close()

    def _call(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except grpc.RpcError as error:
            raise self._translated(error) from None
        except ValueError as error:
            # What gRPC raises for a call on a channel that another thread has closed, on its way to another address.
            raise Unreachable(f"no longer at {self.address} ({error})") from None

    def _translated(self, error: grpc.RpcError) -> Unreachable | Refusal:
        assert isinstance(error, grpc.Call)
        for key, value in error.trailing_metadata() or ():
            if key == FAILURE_TRAILER:
                return Refusal(pb.Failure.FromString(value if isinstance(value, bytes) else value.encode("latin-1")))
        code, details = error.code().name, error.details() or "no answer"
        # Where a call only took too long, the coordinator may be there, and wait for its storage itself.
        late = ", or its storage does not answer it" if code == "DEADLINE_EXCEEDED" else ""
        return Unreachable(f"no coordinator answers at {self.address}{late} ({code}: {details})", code, details)


def ask(address: str, run: str = "") -> pb.StatusReply:
    """Ask the coordinator at HOST:PORT for the status of a run, or without one for the runs that it serves.

    Raises Unreachable if it does not answer within a few seconds, and Refusal if it does not know the run.
    """
    with closing(Link(address)) as link:
        return link.status(pb.StatusRequest(run=run), PATIENCE)


def is_of_another_host(address: str, host: str) -> bool:
    """Return whether an address is a loopback address of another host, so that somebody else answers at it here."""
    return address.startswith(("127.", "localhost", "[::1]")) and host != socket.gethostname()


def is_listening(address: str, patience: float) -> bool:
    """Return whether connecting works. The kernel accepts connections even for a process that is stopped."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), patience).close()
    except OSError:
        return False
    return True
