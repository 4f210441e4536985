"""The gRPC service. A refusal becomes a status, with the failure in the trailing metadata."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio

from holdfast_protos.conventions import FAILURE_TRAILER
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_protos.v1 import coordinator_pb2_grpc as rpc
from holdfast_storage.errors import HoldfastError
from holdfast_storage.failure import Failure
from holdfast_storage.failure_message import encode
from holdfast_storage.logger import logger

from . import wire
from .calls import Calls
from .driver import Refused

log = logger("holdfast.coordinator")

T = TypeVar("T")
Context = Any  # grpc.aio's context is generic in two private types


class GrpcServicer(rpc.CoordinatorServicer):
    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def Join(self, request: pb.JoinRequest, context: Context) -> pb.JoinReply:
        return await _answer(self._calls.join(request), context)

    async def Attend(self, request_iterator: Any, context: Context) -> AsyncIterator[pb.Notice]:
        try:
            async with aclosing(self._calls.attend(request_iterator)) as notices:
                async for notice in notices:
                    yield notice
        except (Refused, HoldfastError) as refusal:
            await _abort(refusal, context)

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
    except (Refused, HoldfastError) as refusal:
        await _abort(refusal, context)
    except Exception as error:
        # This is an answer: the worker would repeat for ever a call that merely broke.
        log.exception("a call failed")
        await _abort(error, context)


async def _abort(error: Exception, context: Context) -> NoReturn:
    failure = error.failure if isinstance(error, Refused) else Failure.of(error)
    code = wire.STATUS_OF_KIND.get(failure.kind, grpc.StatusCode.UNKNOWN)
    told = encode(failure)
    await context.abort(code, told.message[:1000], ((FAILURE_TRAILER, told.SerializeToString()),))
    raise AssertionError("abort raises")
