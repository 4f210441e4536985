"""The gRPC service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_protos.v1 import coordinator_pb2_grpc as rpc
from holdfast_storage.errors import HoldfastError

from .calls import Calls
from .driver import Refused
from .refusals import Context, NotNow, abort, answer


class GrpcServicer(rpc.CoordinatorServicer):
    """The calls of those whom the door has admitted."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def Hello(self, request: pb.Nothing, context: Context) -> pb.HelloReply:
        raise AssertionError("the door answers it")

    async def Join(self, request: pb.JoinRequest, context: Context) -> pb.JoinReply:
        return await answer(self._calls.join(request), context)

    async def Attend(self, request_iterator: Any, context: Context) -> AsyncIterator[pb.Notice]:
        try:
            async with aclosing(self._calls.attend(request_iterator)) as notices:
                async for notice in notices:
                    yield notice
        except (Refused, NotNow, HoldfastError) as refusal:
            await abort(refusal, context)

    async def Vote(self, request: pb.VoteRequest, context: Context) -> pb.VoteReply:
        return await answer(self._calls.vote(request), context)

    async def Report(self, request_iterator: Any, context: Context) -> pb.SaveOutcome:
        return await answer(self._calls.report(request_iterator), context)

    async def Fail(self, request: pb.FailRequest, context: Context) -> pb.SaveOutcome:
        return await answer(self._calls.fail(request), context)

    async def Restore(self, request: pb.RestoreRequest, context: Context) -> pb.RestoreReply:
        return await answer(self._calls.restore(request), context)

    async def Examined(self, request: pb.ExaminedRequest, context: Context) -> pb.ExaminedReply:
        return await answer(self._calls.examined(request), context)

    async def AwaitUpkeep(self, request: pb.AwaitUpkeepRequest, context: Context) -> pb.AwaitUpkeepReply:
        return await answer(self._calls.await_upkeep(request), context)

    async def Leave(self, request: pb.LeaveRequest, context: Context) -> pb.LeaveReply:
        return await answer(self._calls.leave(request), context)

    async def RequestSave(self, request: pb.SaveRequest, context: Context) -> pb.Decision:
        return await answer(self._calls.request_save(request), context)

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusReply:
        return await answer(self._calls.status(request), context)
