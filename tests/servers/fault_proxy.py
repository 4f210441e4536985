"""An HTTP proxy before an object store, which goes wrong at the calls that a plan names.

Requests are passed on as they are, the `Host` header included: clients sign it, and the store checks the signature
against what it receives.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from servers.faults import (
    Answer,
    Call,
    CutReply,
    CutRequest,
    Fault,
    LoseReply,
    Plan,
    Stall,
    Throttle,
    no_faults,
)

T = TypeVar("T")

HOP_BY_HOP = ("Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Expect")
"""Headers that tell of one connection, not of the message (RFC 9110, 7.6.1; `Expect` was answered here)."""

ERRORS = {
    # https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    ("s3", 403): "AccessDenied",
    ("s3", 409): "ConditionalRequestConflict",
    ("s3", 429): "TooManyRequests",
    ("s3", 500): "InternalError",
    ("s3", 501): "NotImplemented",
    ("s3", 503): "SlowDown",
    # https://cloud.google.com/storage/docs/json_api/v1/status-codes
    ("gcs", 403): "forbidden",
    ("gcs", 429): "rateLimitExceeded",
    ("gcs", 500): "backendError",
    ("gcs", 503): "backendError",
    # https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
    ("azure", 403): "AuthorizationPermissionMismatch",
    ("azure", 500): "InternalError",
    ("azure", 503): "ServerBusy",
}
CHUNK = 1 << 16

SHUTDOWN = 0.1
"""Seconds that connections have to end. Zero would mean no limit to aiohttp."""

TURNS = 10
"""Turns of the loop, more than it takes asyncio to make a connection of what was accepted, or to close one."""


class Cut(Exception):
    """This connection is to end now."""


class FaultProxy:
    """A proxy that listens on 127.0.0.1, on a thread of its own, until `stop()`.

    upstream: the HTTP address of the store.
    kind: `s3`, `gcs` or `azure`: in which words it answers with errors.
    plan: what goes wrong; may be set at any time.
    calls: all calls so far, with what went wrong.
    """

    def __init__(self, upstream: str, kind: str, plan: Plan = no_faults) -> None:
        self.plan = plan
        self.calls: list[tuple[Call, Fault | None]] = []
        self._upstream = upstream
        self._kind = kind
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        self.endpoint = self._run(self._start())

    def faults(self) -> list[Fault]:
        """The faults so far."""
        return [fault for _, fault in self.calls if fault is not None]

    def stop(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30.0)

    async def _start(self) -> str:
        # A connection of its own for each call: none that the server is just about to close.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        application = web.Application(client_max_size=sys.maxsize)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, auto_decompress=False, access_log=None, shutdown_timeout=SHUTDOWN)
        await self._runner.setup()
        self._listener = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(self._runner, self._listener).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        # A client may still be calling: some stop at the first error, and their other calls go on without them.
        # Whoever was accepted must be known to the server before it closes: else nobody ever closes that connection.
        self._loop.remove_reader(self._listener)
        await self._turn()
        for call in self._in_flight:
            call.cancel()
        await self._runner.cleanup()
        await self._session.close()
        await self._turn()

    async def _turn(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = Call(len(self.calls), request.method, request.raw_path, request.headers)
        fault = self.plan(call)
        self.calls.append((call, fault))
        task = asyncio.current_task()
        assert task is not None
        self._in_flight.add(task)
        response: web.StreamResponse = web.Response()
        try:
            match fault:
                case Answer(status):
                    await request.read()
                    return self._answer(status)
                case Stall(seconds):
                    await asyncio.sleep(seconds)
            async with self._session.request(
                request.method,
                URL(self._upstream + request.raw_path, encoded=True),
                headers=_end_to_end(request.headers),
                data=_request_body(request, fault) if request.can_read_body else None,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
                allow_redirects=False,
            ) as reply:
                if isinstance(fault, LoseReply | CutRequest):
                    await reply.read()
                    raise Cut
                response = web.StreamResponse(
                    status=reply.status, reason=reply.reason, headers=_end_to_end(reply.headers)
                )
                await _send(request, response, reply, fault)
        except (Cut, aiohttp.ClientError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._in_flight.discard(task)
        return response

    def _answer(self, status: int) -> web.Response:
        code = ERRORS[self._kind, status]
        if self._kind == "gcs":
            error = {"code": status, "message": code, "errors": [{"domain": "global", "reason": code, "message": code}]}
            return web.Response(status=status, text=json.dumps({"error": error}), content_type="application/json")
        text = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
        headers = {"x-ms-error-code": code} if self._kind == "azure" else {}
        return web.Response(status=status, text=text, content_type="application/xml", headers=headers)


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    kept = headers.copy()
    for name in HOP_BY_HOP:
        kept.popall(name, None)
    return kept


async def _request_body(request: web.Request, fault: Fault | None) -> AsyncIterator[bytes]:
    left = (request.content_length or 0) // 2 if isinstance(fault, CutRequest) else None
    async for chunk in request.content.iter_chunked(CHUNK):
        if left is not None and len(chunk) >= left:
            yield chunk[:left]
            raise Cut
        if left is not None:
            left -= len(chunk)
        yield chunk
        await _pace(len(chunk), fault)


async def _send(
    request: web.Request, response: web.StreamResponse, reply: aiohttp.ClientResponse, fault: Fault | None
) -> None:
    if isinstance(fault, CutReply):
        body = await reply.read()
        if body:
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
        raise Cut
    await response.prepare(request)
    async for chunk in reply.content.iter_chunked(CHUNK):
        await response.write(chunk)
        await _pace(len(chunk), fault)
    await response.write_eof()


async def _pace(size: int, fault: Fault | None) -> None:
    if isinstance(fault, Throttle):
        await asyncio.sleep(size / fault.bytes_per_second)
