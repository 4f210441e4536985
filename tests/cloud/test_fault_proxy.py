"""The proxy that the fault tests put before the servers: that it changes nothing, or what the plan says and no more."""

from __future__ import annotations

import asyncio
import http.client
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from fsspec.asyn import sync

from holdfast_storage.store import open_store
from holdfast_storage.store.objects.client import FailureKind, RequestFailed
from holdfast_storage.store.objects.store import ObjectStore
from servers.base import Server
from servers.fault_proxy import ERRORS, SHUTDOWN, FaultProxy
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
from servers.fixtures import KINDS
from servers.fixtures import ObjectStore as Servers


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
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN)
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
    """Calls pass the proxy unchanged. Guards against signatures that fail because the proxy decoded a name, or dropped
    or added a header."""
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
    """With a planned error the server does not act. Guards against a server that has acted where the plan says that it
    has not."""
    answered, body = ask(proxy(always(Answer(status))), "PUT", "/a", BODY)
    assert answered == status
    assert b"<Error><Code>" in body
    assert echo.seen == []


def test_request_is_cut_in_the_middle(echo: Echo, proxy: NewProxy) -> None:
    """A request is cut in the middle, and the server notices. Guards against a cut that tests nothing."""
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        ask(proxy(always(CutRequest())), "PUT", "/a", BODY)
    end = time.monotonic() + 30.0
    while not echo.broken:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert echo.seen == []


def test_reply_is_cut_in_the_middle(echo: Echo, proxy: NewProxy) -> None:
    """A reply is cut in the middle of its body. Guards against a cut before or after it, where clients behave
    differently."""
    with pytest.raises((ConnectionError, http.client.IncompleteRead)) as raised:
        ask(proxy(always(CutReply())), "GET", "/1000001")
    if isinstance(raised.value, http.client.IncompleteRead):
        assert len(raised.value.partial) == 500_000
    assert len(echo.seen) == 1


@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD", "DELETE"])
def test_reply_is_lost(echo: Echo, proxy: NewProxy, method: str) -> None:
    """A lost reply comes after the server has acted. Guards against a lost reply without an effect."""
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        ask(proxy(always(LoseReply())), method, "/10", BODY if method == "PUT" else b"")
    assert [(seen[0], len(seen[3])) for seen in echo.seen] == [(method, len(BODY) if method == "PUT" else 0)]


def test_stalls_and_rates(echo: Echo, proxy: NewProxy) -> None:
    """Stalls and rates take the planned time. Guards against slowness that is none."""
    for fault in (Stall(0.3), Throttle(4_000_000.0)):
        began = time.monotonic()
        assert ask(proxy(always(fault)), "PUT", "/a", BODY) == (200, BODY)
        assert time.monotonic() - began > 0.3
    assert len(echo.seen) == 2


def test_a_plan_in_turn(proxy: NewProxy) -> None:
    """Faults of a plan hit the chosen calls in turn. Guards against faults that hit other calls."""
    front = proxy(in_turn(lambda call: call.method == "PUT", Answer(503), None, Answer(429)))
    statuses = [ask(front, method, "/1")[0] for method in ("GET", "PUT", "GET", "PUT", "PUT", "PUT")]
    assert statuses == [200, 503, 200, 200, 429, 200]
    assert front.faults() == [Answer(503), Answer(429)]


def test_a_random_plan_is_the_same_again() -> None:
    """A random plan repeats with its seed and has the wanted rates. Guards against a failure that nobody can repeat."""
    rates: dict[Fault, float] = {Answer(503): 0.05, LoseReply(): 0.1}
    calls = [Call(number, "GET", "/", {}) for number in range(10_000)]
    drawn = [at_random(7, rates)(call) for call in calls]
    assert drawn == [at_random(7, rates)(call) for call in calls]
    assert drawn != [at_random(8, rates)(call) for call in calls]
    assert 400 < drawn.count(Answer(503)) < 600
    assert 900 < drawn.count(LoseReply()) < 1100


def test_it_stops_while_it_is_called(echo: Echo) -> None:
    """A proxy stops soon, also in the middle of calls and of connections that are being made. Guards against a client
    whose calls outlive its test, after which the proxy waits for a request that nobody reads any more."""
    ended = threading.Event()

    def call(host: str, port: int) -> None:
        while not ended.is_set():
            with suppress(OSError), socket.create_connection((host, port), timeout=5.0) as connection:
                connection.sendall(b"DELETE /x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
                connection.recv(1)

    for _ in range(20):
        ended.clear()
        front = FaultProxy(echo.endpoint, "s3", always(Answer(403)))
        host, port = front.endpoint.removeprefix("http://").split(":")
        clients = [threading.Thread(target=call, args=(host, int(port))) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            while len(front.calls) < 20:
                time.sleep(0.001)
            front.stop()
        finally:
            ended.set()
            for client in clients:
                client.join(30.0)


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, object_store: Servers) -> Server:
    return object_store(request.param)


@pytest.fixture
def front(server: Server) -> Iterator[FaultProxy]:
    proxy = FaultProxy(server.endpoint, server.kind)
    yield proxy
    proxy.stop()


def test_signed_calls_pass(server: Server, front: FaultProxy) -> None:
    """Signed calls pass the proxy. Guards against a store that refuses everything that comes through it."""
    place = server.location(front.endpoint)
    store = open_store(place.url, place.storage_options, write_buffer=20 << 20)
    data = random.Random(2).randbytes(20_000_000)
    assert store.create("a b+c=%~", data[:1000])
    assert not store.create("a b+c=%~", b"again")
    assert store.write("parts", [data]) == len(data)
    assert store.list() == ["a b+c=%~", "parts"]
    middle = memoryview(bytearray(4))
    assert store.read_into("a b+c=%~", 5, middle) == 4
    assert middle == data[5:9]
    assert server.files.cat_file(f"{place.url}/parts") == store.read("parts") == data
    store.replace("folder/a", b"x")
    store.delete_folder("folder")
    assert store.list() == ["a b+c=%~", "parts"]
    assert any(call.is_create for call, _ in front.calls)
    assert sum(call.writes for call, _ in front.calls) > 5


@pytest.mark.parametrize("fault", [LoseReply(), CutReply(), Answer(500), Answer(503)], ids=repr)
def test_a_read_is_tried_again(server: Server, front: FaultProxy, fault: Fault) -> None:
    """A failed read is tried again. Guards against errors of a kind that real stores do not give, and a part of an
    object taken for all of it."""
    place = server.location(front.endpoint)
    store = open_store(place.url, place.storage_options)
    store.replace("a", BODY)
    front.plan = in_turn(lambda call: call.method == "GET", fault)
    assert store.read("a") == BODY
    assert front.faults() == [fault]


@pytest.mark.parametrize(
    ("kind", "status", "meaning"),
    [
        *((kind, 403, "refused") for kind in KINDS),
        *((kind, status, "again") for kind in KINDS for status in (429, 500, 503) if (kind, status) in ERRORS),
    ],
)
def test_errors_are_known(object_store: Servers, kind: str, status: int, meaning: FailureKind) -> None:
    """Each error is known for what it means. Guards against giving up a throttled request, and repeating a forbidden
    one for a minute."""
    server = object_store(kind)
    front = FaultProxy(server.endpoint, kind, always(Answer(status)))
    try:
        place = server.location(front.endpoint)
        store = open_store(place.url, place.storage_options)
        assert isinstance(store, ObjectStore)
        client = store._client
        with pytest.raises(RequestFailed, match=ERRORS[kind, status]) as raised:
            sync(client.loop, client.page, "", "", deep=False)
        assert raised.value.kind == meaning
        assert len(front.calls) == 1
    finally:
        front.stop()
