"""Refuses requests that are larger than any of their kind, before they are parsed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from holdfast_protos.conventions import LARGEST_OTHER_REQUEST, LARGEST_REQUEST
from holdfast_storage.errors import InvalidRequest

from .refusals import abort

Handler = Any  # grpc's are generic in two private types


class RequestSizes(grpc.aio.ServerInterceptor):
    """Bounds what a request can become in memory: two bytes of a repeated message are an object of sixty."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Handler]], details: Any) -> Handler:
        handler = await continuation(details)
        method = details.method.rpartition("/")[2]
        return handler and _bounded(handler, LARGEST_REQUEST.get(method, LARGEST_OTHER_REQUEST))


def _bounded(handler: Handler, limit: int) -> Handler:
    """Return a handler that takes bytes, checks them, and hands the messages to the first one."""

    def parsed(data: bytes) -> Any:
        if len(data) > limit:
            raise InvalidRequest(f"a request has {len(data):,} bytes; at most {limit:,} are possible")
        try:
            return handler.request_deserializer(data)
        except DecodeError as error:
            raise InvalidRequest(f"a request is no message of this service: {error}") from error

    async def each(stream: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for data in stream:
            yield parsed(data)

    async def one(data: bytes, context: Any) -> Any:
        try:
            request = parsed(data)
        except InvalidRequest as error:
            await abort(error, context)
        return await handler.unary_unary(request, context)

    async def streamed(stream: AsyncIterator[bytes], context: Any) -> Any:
        return await handler.stream_unary(each(stream), context)

    async def both_streamed(stream: AsyncIterator[bytes], context: Any) -> AsyncGenerator[Any, None]:
        async with aclosing(handler.stream_stream(each(stream), context)) as replies:
            async for reply in replies:
                yield reply

    if handler.stream_stream:
        return grpc.stream_stream_rpc_method_handler(both_streamed, None, handler.response_serializer)
    if handler.stream_unary:
        return grpc.stream_unary_rpc_method_handler(streamed, None, handler.response_serializer)
    return grpc.unary_unary_rpc_method_handler(one, None, handler.response_serializer)
