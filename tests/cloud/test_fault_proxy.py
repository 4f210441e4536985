"""The proxy that the fault tests put before the servers: that it changes nothing, or what the plan says and no more."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import fsspec
import pytest
from aiohttp import web

from servers.base import BUCKET, Server
from servers.fault_proxy import FaultProxy
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
    at_random,
    in_turn,
    no_faults,
)
from servers.fixtures import KINDS, ObjectStore


@dataclass
class Echo:
    """A server that answers a PUT with what it got, and a GET with so many bytes as the path says."""

    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    broken: int = 0
    endpoint: str = ""

    async def handle(self, request: web.Request) -> web.Response:
        try:
            body = await request.read()
        except Exception:
            self.broken += 1
            raise
        self.seen.append((request.method, request.raw_path, dict(request.headers), body))
        if request.method == "GET":
            body = bytes(int(request.path[1:]))
        return web.Response(body=body, headers={"ETag": '"x"'})


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    loop = asyncio.new_event_loop()
    ready, done = threading.Event(), asyncio.Event()

    async def live() -> None:
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", server.handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await done.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(live(),))
    thread.start()
    assert ready.wait(30.0)
    yield server
    loop.call_soon_threadsafe(done.set)
    thread.join(30.0)
    loop.close()


NewProxy = Callable[[Plan], FaultProxy]


@pytest.fixture
def proxy(echo: Echo) -> Iterator[NewProxy]:
    proxies: list[FaultProxy] = []

    def new(plan: Plan) -> FaultProxy:
        proxies.append(FaultProxy(echo.endpoint, "s3", plan))
        return proxies[-1]

    yield new
    for one in proxies:
        one.stop()


def ask(proxy: FaultProxy, method: str, target: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"), timeout=30.0)
    try:
        connection.request(method, target, body or None, headers)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def always(fault: Fault) -> Plan:
    return lambda _: fault


BODY = random.Random(1).randbytes(1_000_001)


def test_calls_pass_unchanged(echo: Echo, proxy: NewProxy) -> None:
    """Signatures that fail since the proxy decoded a name, dropped a header or added one."""
    front = proxy(no_faults)
    target = "/bucket/a%2Fb%20c/~x?list-type=2&prefix=%2B%3d&empty"
    assert ask(front, "PUT", target, BODY, **{"X-Amz-Date": "now", "Expect": "100-continue"}) == (200, BODY)
    method, seen, headers, body = echo.seen[0]
    assert (method, seen, body) == ("PUT", target, BODY)
    assert headers["Host"] == front.endpoint.removeprefix("http://")
    assert set(headers) == {"Host", "Accept-Encoding", "Content-Length", "X-Amz-Date", "Connection"}
    assert ask(front, "HEAD", "/x") == (200, b"")
    assert front.calls[0][0].query == {"list-type": ["2"], "prefix": ["+="], "empty": [""]}
    assert front.calls[0][0].path == "/bucket/a/b c/~x"


@pytest.mark.parametrize("status", [403, 409, 429, 500, 503])
def test_an_error_stands_in_for_the_answer(echo: Echo, proxy: NewProxy, status: int) -> None:
    """A server that has acted where the plan says that it has not."""
    answered, body = ask(proxy(always(Answer(status))), "PUT", "/a", BODY)
    assert answered == status
    assert b"<Error><Code>" in body
    assert echo.seen == []


def test_request_is_cut_in_the_middle(echo: Echo, proxy: NewProxy) -> None:
    """A cut that the server does not notice, so that nothing is tested."""
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        ask(proxy(always(CutRequest())), "PUT", "/a", BODY)
    end = time.monotonic() + 30.0
    while not echo.broken:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert echo.seen == []


def test_reply_is_cut_in_the_middle(echo: Echo, proxy: NewProxy) -> None:
    """A cut that comes before or after the body, where clients take another way."""
    with pytest.raises((ConnectionError, http.client.IncompleteRead)) as raised:
        ask(proxy(always(CutReply())), "GET", "/1000001")
    if isinstance(raised.value, http.client.IncompleteRead):
        assert len(raised.value.partial) == 500_000
    assert len(echo.seen) == 1


@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD", "DELETE"])
def test_reply_is_lost(echo: Echo, proxy: NewProxy, method: str) -> None:
    """A lost reply that was no lost reply: the server never acted."""
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        ask(proxy(always(LoseReply())), method, "/10", BODY if method == "PUT" else b"")
    assert [(seen[0], len(seen[3])) for seen in echo.seen] == [(method, len(BODY) if method == "PUT" else 0)]


def test_stalls_and_rates(echo: Echo, proxy: NewProxy) -> None:
    """Slowness that is none."""
    for fault in (Stall(0.3), Throttle(4_000_000.0)):
        began = time.monotonic()
        assert ask(proxy(always(fault)), "PUT", "/a", BODY) == (200, BODY)
        assert time.monotonic() - began > 0.3
    assert len(echo.seen) == 2


def test_a_plan_in_turn(proxy: NewProxy) -> None:
    """Faults that hit other calls than the chosen ones."""
    front = proxy(in_turn(lambda call: call.method == "PUT", Answer(503), None, Answer(429)))
    statuses = [ask(front, method, "/1")[0] for method in ("GET", "PUT", "GET", "PUT", "PUT", "PUT")]
    assert statuses == [200, 503, 200, 200, 429, 200]
    assert front.faults() == [Answer(503), Answer(429)]


def test_a_random_plan_is_the_same_again() -> None:
    """A failure that nobody can bring back; or rates that are not what was asked for."""
    rates: dict[Fault, float] = {Answer(503): 0.05, LoseReply(): 0.1}
    calls = [Call(number, "GET", "/", {}) for number in range(10_000)]
    drawn = [at_random(7, rates)(call) for call in calls]
    assert drawn == [at_random(7, rates)(call) for call in calls]
    assert drawn != [at_random(8, rates)(call) for call in calls]
    assert 400 < drawn.count(Answer(503)) < 600
    assert 900 < drawn.count(LoseReply()) < 1100


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, object_store: ObjectStore) -> Server:
    return object_store(request.param)


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # of aiohttp, about gcsfs and adlfs
def test_signed_calls_pass(server: Server) -> None:
    """A store that refuses what came through the proxy."""
    proxy = FaultProxy(server.endpoint, server.kind)
    try:
        location = server.location(proxy.endpoint)
        files = fsspec.filesystem(server.protocol, **location.storage_options, skip_instance_cache=True)
        root = location.url.partition("://")[2]
        data = random.Random(2).randbytes(20_000_000)
        files.pipe_file(f"{root}/a b+c=%~", data)
        with files.open(f"{root}/parts", "wb", block_size=6_000_000) as file:
            file.write(data)
        files.pipe_file(f"{root}/new", b"x", mode="create")
        with pytest.raises(OSError):  # noqa: PT011, the libraries word it differently
            files.pipe_file(f"{root}/new", b"y", mode="create")
        assert sorted(files.ls(root, detail=False)) == [f"{root}/{name}" for name in ("a b+c=%~", "new", "parts")]
        for name in ("a b+c=%~", "parts"):
            assert hashlib.sha256(server.files.cat_file(f"{root}/{name}")).digest() == hashlib.sha256(data).digest()
            assert files.cat_file(f"{root}/{name}", start=5, end=9) == data[5:9]
        files.rm(root, recursive=True)
        assert server.files.find(root) == []
        assert len(proxy.calls) > 10
        assert any(call.is_create for call, _ in proxy.calls)
    finally:
        proxy.stop()


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        *((kind, fault) for kind in KINDS for fault in (LoseReply(), CutReply(), CutRequest())),
        *((kind, Answer(status)) for kind in ("s3", "gcs") for status in (429, 503)),
    ],
)
def test_clients_try_again(object_store: ObjectStore, kind: str, fault: Fault) -> None:
    """Errors in a shape that the client libraries do not know from the stores."""
    server = object_store(kind)
    proxy = FaultProxy(server.endpoint, kind)
    try:
        location = server.location(proxy.endpoint)
        files = fsspec.filesystem(server.protocol, **location.storage_options, skip_instance_cache=True)
        name = f"{location.url.partition('://')[2]}/a"
        files.pipe_file(name, BODY)
        proxy.plan = in_turn(lambda call: call.method == "GET", fault)
        assert files.cat_file(name) == BODY
        assert proxy.faults() == [fault]
    finally:
        proxy.stop()


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AuthorizationPermissionMismatch"), (500, "InternalError"), (503, "ServerBusy")]
)
def test_azure_knows_the_errors(object_store: ObjectStore, status: int, code: str) -> None:
    """The same for Azure, whose library waits for a quarter of a minute before it tries again."""
    from azure.core.exceptions import HttpResponseError
    from azure.storage.blob import ContainerClient

    server = object_store("azure")
    proxy = FaultProxy(server.endpoint, "azure", always(Answer(status)))
    try:
        address = server.options(proxy.endpoint)["connection_string"]
        with ContainerClient.from_connection_string(address, BUCKET, retry_total=0) as container:
            with pytest.raises(HttpResponseError) as raised:
                container.upload_blob("a", b"x")
            assert raised.value.error_code == code
    finally:
        proxy.stop()
