"""The connections that carry the data of S3, to a server that answers as each test needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from holdfast_storage.errors import StorageError
from holdfast_storage.store import open_store
from holdfast_storage.store.base import Store
from holdfast_storage.store.objects import store as object_store

DATA = bytes(range(256)) * 64

MOVED = b"<Error><Code>PermanentRedirect</Code><Message>It is elsewhere</Message></Error>"

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """answer: what is done about each request for data. connections: how many there were. over: the test is."""

    def __init__(self, answer: Answer) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                answer(self)

            def do_PUT(self) -> None:
                answer(self)

            def do_HEAD(self) -> None:
                answer(self)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.connections = 0
        self.over = threading.Event()
        threading.Thread(target=self.serve_forever).start()

    def process_request(self, *arguments: object) -> None:
        self.connections += 1
        super().process_request(*arguments)  # type: ignore[arg-type]

    def handle_error(self, *_: object) -> None:
        """Connections that were cut are what some tests are about."""

    def store(self, **config: float) -> Store:
        options = {"endpoint_url": f"http://127.0.0.1:{self.server_port}", "key": "key", "secret": "hush"}
        return open_store("s3://bucket/run", {**options, "config_kwargs": config})

    def stop(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Server]]:
    servers: list[Server] = []

    def serve(answer: Answer) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield serve
    for server in servers:
        server.stop()
    await_transfers()


Serve = Callable[[Answer], Server]


def await_transfers() -> None:
    """See the threads of all transfers end."""
    for thread in threading.enumerate():
        if thread.name == "holdfast-transfer":
            thread.join(30.0)
            assert not thread.is_alive()


def begin_range(request: BaseHTTPRequestHandler) -> bytes:
    """Send the headers of an answer to a request for a range, and tell what is to follow."""
    first, last = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
    data = DATA[first : last + 1]
    request.send_response(206)
    request.send_header("Content-Range", f"bytes {first}-{first + len(data) - 1}/{len(DATA)}")
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    return data


def test_connections_are_used_again(serve: Serve) -> None:
    """Connections are used again. Guards against a connection for each range, with handshakes that take longer than the
    data."""
    server = serve(lambda request: request.wfile.write(begin_range(request)) and None)
    store = server.store()
    for start in range(0, len(DATA), 1000):
        buffer = memoryview(bytearray(1000))
        count = store.read_into("a", start, buffer)
        assert bytes(buffer[:count]) == DATA[start : start + 1000]
    assert server.connections == 1


def test_a_connection_that_ends_too_early_is_not_used_again(serve: Serve) -> None:
    """A connection that ends too early is not used again. Guards against half a range that counts as all of it, and a
    next request on what is left of the connection."""
    cut = iter([True, False, True, False])

    def answer(request: BaseHTTPRequestHandler) -> None:
        data = begin_range(request)
        if next(cut):
            data = data[:700]
            request.close_connection = True
        request.wfile.write(data)

    server = serve(answer)
    store = server.store()
    for start in (0, 1000):
        buffer = memoryview(bytearray(1000))
        assert store.read_into("a", start, buffer) == 1000
        assert bytes(buffer) == DATA[start : start + 1000]
    assert server.connections == 3


def test_less_than_was_asked_for_is_asked_for_again(serve: Serve) -> None:
    """A short answer is completed by another request. Guards against an answer that HTTP allows, taken for the end of
    the object: a log entry that seems unfinished."""
    short = iter([True, True])

    def answer(request: BaseHTTPRequestHandler) -> None:
        if next(short, False):
            request.headers.replace_header("Range", "bytes=0-99")
        request.wfile.write(begin_range(request))

    buffer = memoryview(bytearray(1000))
    assert serve(answer).store().read_into("a", 0, buffer) == 1000
    assert bytes(buffer) == DATA[:1000]


def test_a_server_without_ranges(serve: Serve) -> None:
    """A server without ranges is an error that says so, and the whole object that it sends is not waited for. Guards
    against a KeyError, and against memory for an object of any size."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(2 << 40))
        request.end_headers()
        request.wfile.write(DATA)

    with pytest.raises(StorageError, match="the server does not know ranges"):
        serve(answer).store().read_into("a", 0, memoryview(bytearray(1000)))


def test_a_bucket_in_another_region(serve: Serve) -> None:
    """A bucket in another region is found, and the body is sent whole. Guards against a redirect by the library, after
    which the request has lost its body."""
    bodies: list[tuple[str, int]] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        region = request.headers["Authorization"].split("/")[2]
        size = int(request.headers.get("Content-Length") or 0)
        bodies.append((request.command, len(request.rfile.read(size))))
        assert "Transfer-Encoding" not in request.headers
        body = b"" if region == "eu-west-1" or request.command == "HEAD" else MOVED
        request.send_response(200 if region == "eu-west-1" else 301)
        if request.command == "HEAD":
            request.send_header("x-amz-bucket-region", "eu-west-1")
        request.send_header("Content-Length", str(len(body)))
        request.send_header("ETag", '"tag"')
        request.end_headers()
        request.wfile.write(body)

    serve(answer).store().replace("a", b"data")
    assert {("HEAD", 0)} | set(bodies) == {("HEAD", 0), ("PUT", 4)}
    assert bodies.count(("PUT", 4)) == 2


def trickle(request: BaseHTTPRequestHandler) -> None:
    """A byte now and then, until the test is over."""
    while not request.server.over.wait(0.01):  # type: ignore[attr-defined]
        request.wfile.write(b"x")
    request.close_connection = True


def trickle_data(request: BaseHTTPRequestHandler) -> None:
    begin_range(request)
    trickle(request)


def trickle_headers(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"HTTP/1.1 206 Partial Content\r\nX-Long: ")
    trickle(request)
    request.wfile.write(b"\r\nContent-Length: 3\r\n\r\nxxx")


def trickle_error(request: BaseHTTPRequestHandler) -> None:
    request.send_response(500)
    request.send_header("Content-Length", "1000000")
    request.end_headers()
    trickle(request)


@pytest.fixture
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "FIRST_ANSWER_WITHIN", 0.5)
    monkeypatch.setattr(object_store, "FIRST_PATIENCE", 0.0)


@pytest.mark.usefixtures("_hurried")
@pytest.mark.parametrize("answer", [trickle_data, trickle_headers, trickle_error])
def test_a_byte_now_and_then_is_no_answer(serve: Serve, answer: Answer) -> None:
    """A server that sends a byte now and then runs into the time limit. Guards against a restore without an end, and
    one that ends while a thread still writes to its memory."""
    server = serve(answer)
    buffer = memoryview(bytearray(len(DATA)))
    with pytest.raises(StorageError, match="Could not read s3://bucket/run/a: there was no answer in time"):
        server.store().read_into("a", 0, buffer)
    if answer is trickle_data:
        await_transfers()  # which the server does not end
    buffer[:] = bytes(len(buffer))
    server.stop()
    await_transfers()
    assert not any(buffer)


@pytest.mark.usefixtures("_hurried")
def test_a_server_that_takes_nothing(serve: Serve) -> None:
    """A server that has stopped reading runs into the time limit. Guards against a save that never fails."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.server.over.wait()  # type: ignore[attr-defined]
        request.close_connection = True

    store = serve(answer).store(connect_timeout=0.5)
    with pytest.raises(StorageError, match=r"Could not replace s3://bucket/run/a"):
        store.replace("a", bytes(16 << 20))
    await_transfers()
