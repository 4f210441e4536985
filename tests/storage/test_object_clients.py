"""What the clients of object stores do beyond the store contract, on real servers."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from holdfast_storage.errors import StorageError
from holdfast_storage.store import open_store
from holdfast_storage.store.base import NotCreated
from holdfast_storage.store.objects.s3 import _kind
from holdfast_storage.store.objects.store import ObjectStore
from servers.base import Server
from servers.fault_proxy import FaultProxy
from servers.faults import Answer, CutRequest, Fault, LoseReply, in_turn
from servers.fixtures import KINDS
from servers.fixtures import ObjectStore as Servers
from support.stores import winners

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(autouse=True)
def clients_end() -> Iterator[None]:
    """Let the clients of a test end with it. Where s3fs (2025.3) is collected as garbage, it asks for the event loop of
    that thread, which is made if there is none and which nobody closes: an error of whichever test comes then."""
    yield
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    gc.collect()
    loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop)))
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, object_store: Servers) -> Server:
    return object_store(request.param)


@pytest.fixture
def store(server: Server) -> ObjectStore:
    place = server.location()
    store = open_store(place.url, place.storage_options)
    assert isinstance(store, ObjectStore)
    return store


def test_listings_of_several_pages(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing of several pages is complete. Guards against a log of which only the first thousand entries are seen,
    and a folder of which only as many are deleted."""
    monkeypatch.setattr(store._client, "page_size", 3, raising=True)
    for number in range(5):
        store.create(f"log/{number}", b"")
        store.create(f"log/folder-{number}/x", b"")
    assert store.list("log") == sorted(f"{n}" for n in range(5)) + sorted(f"folder-{n}/" for n in range(5))
    store.delete_folder("log")
    assert store.list() == []


def test_large_creates_are_exclusive(store: ObjectStore) -> None:
    """A large create is exclusive, too. Guards against an index sent in parts, at whose end some stores forget the
    condition."""
    size = 101 << 20
    won = winners(store, "index", [bytes([who]) * size for who in range(3)])
    assert len(won) == 1
    assert not store.create("index", bytes(size))
    end = memoryview(bytearray(4))
    assert store.read_into("index", size - 3, end) == 3
    assert end[:3] == bytes([won[0]]) * 3
    assert store.size("index") == size


def test_a_create_whose_answer_is_lost_has_succeeded(server: Server) -> None:
    """A create whose answer is lost has succeeded. Guards against a library that repeats the request and passes on the
    refusal of its own first try."""
    proxy = FaultProxy(server.endpoint, server.kind)
    try:
        place = server.location(proxy.endpoint)
        store = open_store(place.url, place.storage_options)
        for size in (1, 2 << 20):
            assert store.create(f"{size}/first", bytes(size))  # on a connection that can be used again
            proxy.plan = in_turn(lambda call: call.is_create, LoseReply())
            assert store.create(f"{size}/second", bytes(size))
        assert proxy.faults() == [LoseReply()] * 2
    finally:
        proxy.stop()


Google = tuple[Any, ObjectStore]


@pytest.mark.parametrize("size", [1, 800_000, 2 << 20])
@pytest.mark.parametrize("fault", [Answer(503), CutRequest(), LoseReply()], ids=lambda fault: type(fault).__name__)
def test_a_second_try_sends_all_of_it(server: Server, size: int, fault: Fault) -> None:
    """A second try sends the whole body. Guards against a body that the first try has read to its end, so that the
    second one sends nothing and hangs."""
    proxy = FaultProxy(server.endpoint, server.kind)
    try:
        place = server.location(proxy.endpoint)
        store = open_store(place.url, place.storage_options)
        store.replace("a", b"first")
        proxy.plan = in_turn(lambda call: call.writes, fault)
        data = bytes(range(256)) * (size // 256) + b"x"
        began = time.monotonic()
        store.replace("a", data)
        assert time.monotonic() - began < 15.0
        assert store.read("a") == data
        assert proxy.faults() == [fault]
    finally:
        proxy.stop()


@pytest.fixture
def google() -> Iterator[Google]:
    """Google Cloud Storage whose answers a test chooses: by method, status and text."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, text = server.answers[self.command]  # type: ignore[attr-defined]
            self.send_response(status)
            self.send_header("Location", f"http://127.0.0.1:{server.server_port}/elsewhere")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    options = {"token": "anon", "endpoint_url": f"http://127.0.0.1:{server.server_port}"}
    store = open_store("gs://my-bucket/run", options, write_buffer=20 << 20)
    assert isinstance(store, ObjectStore)
    yield server, store
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_missing_object_of_google(google: Google) -> None:
    """A missing object on Google is recognised whatever the bucket's name is. Guards against a new run that can never
    begin because `bucket` is in the name of its bucket."""
    server, store = google
    store._seen = True
    server.answers = {"GET": (404, '{"error": {"code": 404, "message": "No such object: my-bucket/run/a"}}')}
    assert store.size("a") is None
    server.answers = {"GET": (404, '{"error": {"code": 404, "message": "The specified bucket does not exist."}}')}
    with pytest.raises(StorageError, match="Check the name of the bucket, my-bucket"):
        store.size("a")


@pytest.mark.parametrize("status", [301, 308, 416, 499])
def test_what_google_did_not_do(google: Google, status: int) -> None:
    """What Google has not done is not taken for a success. Guards against a proxy that redirects the caller, or an
    upload that no longer exists."""
    server, store = google
    store._answered = store._seen = True
    server.answers = {"POST": (status, "")}
    with pytest.raises(NotCreated, match=str(status)):
        store.create("a", b"x")
    if status != 308:  # which says that some of it has arrived
        server.answers = {"GET": (404, "{}"), "POST": (200, ""), "PUT": (status, ""), "DELETE": (499, "")}
        with pytest.raises(StorageError, match=str(status)):
            store.write("a", [bytes(12 << 20)])


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("NotImplemented", 501, "unsupported"),
        ("MethodNotAllowed", 501, "unsupported"),
        ("AccessDenied", 403, "refused"),
        ("InternalError", 500, "again"),
        ("ConditionalRequestConflict", 409, "again"),
        ("ThrottlingException", 400, "again"),  # of the keys that encrypt the bucket
        ("IncompleteBody", 400, "again"),
    ],
)
def test_what_s3_means(code: str, status: int, kind: str) -> None:
    """Each answer of S3 is understood as what it means. Guards against a minute of requests to a server without
    conditional writes, and a save lost to a moment of throttling."""
    assert _kind(code, status) == kind


def test_a_header_that_s3_does_not_know() -> None:
    """A server that rejects the condition's header is recognised. Guards against a server that cannot be used at all
    because it says so with another status."""
    told = "A header you provided implies functionality that is not implemented"
    assert _kind("InvalidRequest", 400, told) == "unsupported"
    assert _kind("InvalidRequest", 400, "no") == "refused"


def test_strange_names(store: ObjectStore) -> None:
    """Strange names come back as they were given. Guards against a name that comes back in another form."""
    for name in ("a b/c+d", "per%20cent/%", "ü/日本", "a&b=c/#1", "quo\"te'/`~!$^(){}|;:,<>"):
        assert store.create(name, name.encode())
        assert store.read(name) == name.encode()
        assert store.size(name) == len(name.encode())
        folder, _, base = name.partition("/")
        assert store.list(folder) == [base]
        store.delete_folder(folder)
        assert store.list() == []
