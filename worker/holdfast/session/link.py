"""A worker's connection to its coordinator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import grpc

from holdfast_protos.client import CHANNEL_OPTIONS
from holdfast_protos.conventions import FAILURE_TRAILER
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_protos.v1 import coordinator_pb2_grpc as rpc

T = TypeVar("T")


class Unreachable(Exception):
    """The coordinator did not answer."""


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
        """Present as long as `beats` goes on."""
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
        details = f"{error.code().name}: {error.details() or 'no answer'}"
        # Where a call only took too long, the coordinator may be there, and wait for its storage itself.
        late = ", or its storage does not answer it" if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else ""
        return Unreachable(f"no coordinator answers at {self.address}{late} ({details})")
