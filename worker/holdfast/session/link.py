"""A worker's connection to its coordinator: over gRPC, or directly in its own process."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc

from holdfast_protos.client import CHANNEL_OPTIONS
from holdfast_protos.conventions import FAILURE_TRAILER
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_protos.v1 import coordinator_pb2_grpc as rpc

if TYPE_CHECKING:
    from holdfast_coordinator.embedded import Embedded

T = TypeVar("T")


class Unreachable(Exception):
    """The coordinator did not answer."""


class Refusal(Exception):
    """The coordinator refused the call."""

    def __init__(self, failure: pb.Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Link(Protocol):
    """The calls of the protocol. All raise Unreachable or Refusal; `timeout` is in seconds."""

    address: str

    def join(self, request: pb.JoinRequest, timeout: float) -> pb.JoinReply: ...
    def vote(self, request: pb.VoteRequest, timeout: float) -> pb.VoteReply: ...
    def report(self, chunks: list[pb.ReportChunk], timeout: float) -> pb.SaveOutcome: ...
    def fail(self, request: pb.FailRequest, timeout: float) -> pb.SaveOutcome: ...
    def restore(self, request: pb.RestoreRequest, timeout: float) -> pb.RestoreReply: ...
    def await_upkeep(self, request: pb.AwaitUpkeepRequest, timeout: float) -> pb.AwaitUpkeepReply: ...
    def leave(self, request: pb.LeaveRequest, timeout: float) -> pb.LeaveReply: ...
    def status(self, request: pb.StatusRequest, timeout: float) -> pb.StatusReply: ...

    def attend(self, beats: Iterator[pb.Heartbeat]) -> Iterator[pb.Notice]:
        """Be present for as long as `beats` goes on, and yield notices."""
        ...

    def close(self) -> None: ...


class GrpcLink:
    """A coordinator at an address."""

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


class LocalLink:
    """The coordinator in this process."""

    def __init__(self, embedded: Embedded) -> None:
        self._embedded = embedded
        self._calls = embedded.server.calls
        self.address = embedded.server.address

    def join(self, request: pb.JoinRequest, timeout: float) -> pb.JoinReply:
        return self._run(self._calls.join(request), timeout)

    def vote(self, request: pb.VoteRequest, timeout: float) -> pb.VoteReply:
        return self._run(self._calls.vote(request), timeout)

    def report(self, chunks: list[pb.ReportChunk], timeout: float) -> pb.SaveOutcome:
        return self._run(self._calls.report(_each(chunks)), timeout)

    def fail(self, request: pb.FailRequest, timeout: float) -> pb.SaveOutcome:
        return self._run(self._calls.fail(request), timeout)

    def restore(self, request: pb.RestoreRequest, timeout: float) -> pb.RestoreReply:
        return self._run(self._calls.restore(request), timeout)

    def await_upkeep(self, request: pb.AwaitUpkeepRequest, timeout: float) -> pb.AwaitUpkeepReply:
        return self._run(self._calls.await_upkeep(request), timeout)

    def leave(self, request: pb.LeaveRequest, timeout: float) -> pb.LeaveReply:
        return self._run(self._calls.leave(request), timeout)

    def status(self, request: pb.StatusRequest, timeout: float) -> pb.StatusReply:
        return self._run(self._calls.status(request), timeout)

    def attend(self, beats: Iterator[pb.Heartbeat]) -> Iterator[pb.Notice]:
        notices: SimpleQueue[pb.Notice | Exception | None] = SimpleQueue()
        presence: Callable[[pb.Heartbeat | None], None] = self._calls.present(notices.put)

        def beat() -> None:
            end = None
            try:
                for each in beats:
                    self._embedded.tell(presence, each)
                self._embedded.tell(presence, None)
            except Exception as error:  # of whoever attends, as all else that goes wrong with it
                end = error
            notices.put(end)

        threading.Thread(target=beat, name="holdfast-beat", daemon=True).start()
        while isinstance(notice := notices.get(), pb.Notice):
            yield notice
        if notice is not None:
            raise notice

    def close(self) -> None:
        pass

    def _run(self, call: Coroutine[Any, Any, T], timeout: float) -> T:
        from holdfast_coordinator import wire
        from holdfast_coordinator.driver import Refused

        try:
            return self._embedded.run(call, timeout)
        except Refused as refused:
            raise Refusal(wire.failure_message(refused.failure)) from None
        except TimeoutError:
            raise Unreachable(f"no answer within {timeout:.0f} s") from None
        except CancelledError:
            raise Unreachable("it has ended") from None


async def _each(chunks: Iterable[T]) -> AsyncIterator[T]:
    for chunk in chunks:
        yield chunk
