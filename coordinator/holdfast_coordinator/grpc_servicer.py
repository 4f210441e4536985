"""The gRPC service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any, TypeVar

from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_protos.v1 import coordinator_pb2_grpc as rpc
from holdfast_storage.errors import HoldfastError
from holdfast_storage.logger import logger

from .calls import Calls
from .door import Door
from .driver import Refused
from .refusals import Context, NotNow, abort

log = logger("holdfast.coordinator")

T = TypeVar("T")


class GrpcServicer(rpc.CoordinatorServicer):
    def __init__(self, calls: Calls, door: Door) -> None:
        self._calls = calls
        self._door = door

    async def Hello(self, request: pb.HelloRequest, context: Context) -> pb.HelloReply:
        return await _answer(self._door.hello(request, context.peer()), context)

    async def Join(self, request: pb.JoinRequest, context: Context) -> pb.JoinReply:
        return await _answer(self._calls.join(request), context)

    async def Attend(self, request_iterator: Any, context: Context) -> AsyncIterator[pb.Notice]:
        try:
            async with aclosing(self._calls.attend(request_iterator)) as notices:
                async for notice in notices:
                    yield notice
        except (Refused, HoldfastError) as refusal:
            await abort(refusal, context)

    async def Vote(self, request: pb.VoteRequest, context: Context) -> pb.VoteReply:
        return await _answer(self._calls.vote(request), context)

    async def Report(self, request_iterator: Any, context: Context) -> pb.SaveOutcome:
        return await _answer(self._calls.report(request_iterator), context)

    async def Fail(self, request: pb.FailRequest, context: Context) -> pb.SaveOutcome:
        return await _answer(self._calls.fail(request), context)

    async def Restore(self, request: pb.RestoreRequest, context: Context) -> pb.RestoreReply:
        return await _answer(self._calls.restore(request), context)

    async def AwaitUpkeep(self, request: pb.AwaitUpkeepRequest, context: Context) -> pb.AwaitUpkeepReply:
        return await _answer(self._calls.await_upkeep(request), context)

    async def Leave(self, request: pb.LeaveRequest, context: Context) -> pb.LeaveReply:
        return await _answer(self._calls.leave(request), context)

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusReply:
        return await _answer(self._calls.status(request), context)


async def _answer(call: Awaitable[T], context: Context) -> T:
    try:
        return await call
    except (Refused, NotNow, HoldfastError) as refusal:
        await abort(refusal, context)
    except Exception as error:
        # This is an answer: the worker would repeat for ever a call that merely broke.
        log.exception("a call failed")
        await abort(error, context)
