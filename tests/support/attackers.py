"""Strangers on the network, who know where a coordinator listens and nothing else. They speak TLS, which anybody may,
and HTTP/2 frame by frame, so that they can do what no gRPC client does."""

from __future__ import annotations

import base64
import gzip
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8, 0x9
END_STREAM, END_HEADERS = 0x1, 0x4
PATH = "/holdfast_protos.v1.Coordinator/"
PATIENCE = 10.0


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of RFC 9113."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def field(name: bytes, value: bytes) -> bytes:
    """A header field of RFC 7541, as literal text."""
    return b"\0" + _length(name) + name + _length(value) + value


def _length(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)])
    rest, digits = len(text) - 127, b"\x7f"
    while rest >= 128:
        digits, rest = digits + bytes([rest % 128 + 128]), rest // 128
    return digits + bytes([rest])


def call_headers(method: str, *more: tuple[bytes, bytes]) -> bytes:
    """The header fields of a gRPC call."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", (method if method.startswith("/") else PATH + method).encode()),
        (b":authority", b"holdfast"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *more,
    ]
    return b"".join(field(name, value) for name, value in fields)


def message(data: bytes, compressed: bool = False) -> bytes:
    """A gRPC message as it is framed in a stream."""
    return bytes([compressed]) + len(data).to_bytes(4, "big") + data


class Stranger:
    """A connection. Without TLS only the TCP connection is made, without HTTP/2 no preface is sent."""

    def __init__(self, address: str, *, tls: bool = True, http2: bool = True) -> None:
        host, _, port = address.rpartition(":")
        self.socket: socket.socket = socket.create_connection((host, int(port)), PATIENCE)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            try:
                self.socket = context.wrap_socket(self.socket)
            except BaseException:
                self.socket.close()
                raise
        if tls and http2:
            self.send(PREFACE + frame(SETTINGS, 0, 0))

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def call(self, method: str, stream: int, body: bytes = b"", *more: tuple[bytes, bytes], end: bool = True) -> None:
        """Make a call on a stream. Its body is sent as far as the window of a connection that is new goes."""
        self.send(frame(HEADERS, END_HEADERS, stream, call_headers(method, *more)))
        self.send(frame(DATA, END_STREAM if end else 0, stream, body[:16384]))

    def drain(self) -> bytes:
        """What has come so far."""
        heard = b""
        self.socket.settimeout(0.001)
        with suppress(TimeoutError, ssl.SSLWantReadError):
            while data := self.socket.recv(65536):
                heard += data
        self.socket.settimeout(PATIENCE)
        return heard

    def is_let_go(self, within: float) -> bool:
        """Return whether the other side ends the connection within some seconds."""
        end = time.monotonic() + within
        while (rest := end - time.monotonic()) > 0:
            self.socket.settimeout(rest)
            try:
                if not self.socket.recv(65536):
                    return True
            except TimeoutError:
                break
            except OSError:
                return True
        return False

    def close(self) -> None:
        self.socket.close()


@contextmanager
def stranger(address: str, **options: bool) -> Iterator[Stranger]:
    made = Stranger(address, **options)
    try:
        yield made
    finally:
        made.close()


def repeat(address: str, seconds: float, act: Callable[[Stranger, int], None], **options: bool) -> tuple[int, int]:
    """Do something again and again, on a new connection when one is lost. `act` gets a number of a stream that is new.

    Returns how often it was done, and how often a connection was lost or refused.
    """
    end, done, lost = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        with suppress(OSError), stranger(address, **options) as one:
            number = 1
            while time.monotonic() < end:
                act(one, number)
                done, number = done + 1, number + 2
                if done % 8 == 0:
                    one.drain()
            break
        lost += 1
        time.sleep(0.01)
    return done, lost


# -- what strangers do for so many seconds, after `begun()`. Each returns what it has done, in words --

Begun = Callable[[], None]
Attack = Callable[[str, float, int, Begun], str]
"""`attack(address, seconds, many, begun)`. many: connections, where an attack is about their number."""


def idle(address: str, seconds: float, many: int, begun: Begun) -> str:
    """Connect, and say nothing."""
    return _hold(address, seconds, begun, many, lambda _: None, tls=False)


def idle_tls(address: str, seconds: float, many: int, begun: Begun) -> str:
    """Connect by TLS and HTTP/2, and ask nothing."""
    return _hold(address, seconds, begun, many // 5, lambda _: None)


def half_handshakes(address: str, seconds: float, many: int, begun: Begun) -> str:
    """Begin a TLS handshake, and leave it at that."""
    hello = bytes.fromhex("160301020001000201fc0303")
    return _hold(address, seconds, begun, many // 5, lambda one: one.send(hello), tls=False)


def half_streams(address: str, seconds: float, many: int, begun: Begun) -> str:
    """Open streams, and send half a message on each."""

    def open_streams(one: Stranger) -> None:
        for stream in range(1, 200, 2):
            method = "Hello" if stream % 4 == 1 else "Attend"
            body = frame(DATA, 0, stream, message(bytes(1000))[:100])
            one.send(frame(HEADERS, END_HEADERS, stream, call_headers(method)) + body)

    return _hold(address, seconds, begun, max(1, many // 500), open_streams)


def handshakes(address: str, seconds: float, many: int, begun: Begun) -> str:
    """Shake hands, and go."""
    begun()
    end, done = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        with suppress(OSError), stranger(address):
            done += 1
    return f"{done} handshakes"


def garbage(address: str, seconds: float, many: int, begun: Begun) -> str:
    """Send what is no TLS."""
    begun()
    end, done = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        with suppress(OSError), stranger(address, tls=False) as one:
            one.send(bytes(range(256)))
            done += 1
        time.sleep(0.001)
    return f"{done} connections"


def resets(address: str, seconds: float, many: int, begun: Begun) -> str:
    """Make calls and take them back at once."""

    def act(one: Stranger, stream: int) -> None:
        one.send(frame(HEADERS, END_HEADERS, stream, call_headers("Attend")) + frame(RESET, 0, stream, bytes(4)))

    return _repeat(address, seconds, begun, act)


def pings(address: str, seconds: float, many: int, begun: Begun) -> str:
    return _repeat(address, seconds, begun, lambda one, _: one.send(frame(PING, 0, 0, bytes(8)) * 10))


def all_settings(address: str, seconds: float, many: int, begun: Begun) -> str:
    return _repeat(address, seconds, begun, lambda one, _: one.send(frame(SETTINGS, 0, 0) * 10))


def header_fields(address: str, seconds: float, many: int, begun: Begun) -> str:
    """Send header fields without an end."""
    fields = frame(CONTINUATION, 0, 1, b"".join(field(b"a%d" % n, b"b" * 100) for n in range(100)))

    def act(one: Stranger, stream: int) -> None:
        one.send(fields if stream > 1 else frame(HEADERS, 0, 1, call_headers("Attend")))

    return _repeat(address, seconds, begun, act)


def calls(address: str, seconds: float, many: int, begun: Begun) -> str:
    """Make calls without a proof."""

    def act(one: Stranger, stream: int) -> None:
        one.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, call_headers("Vote")))

    return _repeat(address, seconds, begun, act)


def hellos(address: str, seconds: float, many: int, begun: Begun) -> str:
    """Greet runs that are not there, each another one."""

    def act(one: Stranger, stream: int) -> None:
        run = f"/tmp/no-such-run/{stream}".encode()
        greeting = base64.b64encode(b"\x0a" + bytes([len(run)]) + run)
        headers = call_headers("Hello", (b"holdfast-hello-bin", greeting))
        one.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, headers))

    return _repeat(address, seconds, begun, act)


def bombs(address: str, seconds: float, many: int, begun: Begun) -> str:
    """Send a few bytes that are inflated to many, by gzip and deflate in turn."""
    packed = {b"gzip": gzip.compress(bytes(16 << 20)), b"deflate": zlib.compress(bytes(16 << 20))}

    def act(one: Stranger, stream: int) -> None:
        way = list(packed)[stream // 2 % 2]
        one.call("Report", stream, message(packed[way], compressed=True), (b"grpc-encoding", way))

    return _repeat(address, seconds, begun, act)


def endless(address: str, seconds: float, many: int, begun: Begun) -> str:
    """Announce a message of 256 MiB to whoever may be asked by all, and send as much of it as is taken."""
    begun()
    end, sent, lost = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        with suppress(OSError), stranger(address) as one:
            one.send(frame(HEADERS, END_HEADERS, 1, call_headers("/grpc.health.v1.Health/Check")))
            one.send(frame(DATA, 0, 1, b"\0" + (256 << 20).to_bytes(4, "big")))
            while time.monotonic() < end:
                one.send(frame(DATA, 0, 1, bytes(16384)))
                sent += 16384
        lost += 1
    return f"{sent >> 20} MiB, {lost} connections"


def reflection(address: str, seconds: float, many: int, begun: Begun) -> str:
    """Ask what there is to be called, and for what is not there."""

    def act(one: Stranger, stream: int) -> None:
        path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" if stream % 4 == 1 else "/no/such"
        one.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, call_headers(path)))

    return _repeat(address, seconds, begun, act)


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        idle,
        idle_tls,
        half_handshakes,
        half_streams,
        handshakes,
        garbage,
        resets,
        pings,
        all_settings,
        header_fields,
        calls,
        hellos,
        bombs,
        endless,
        reflection,
    )
}


def _hold(
    address: str, seconds: float, begun: Begun, many: int, act: Callable[[Stranger], None], **options: bool
) -> str:
    held, refused = list[Stranger](), 0
    for _ in range(many):
        try:
            held.append(Stranger(address, **options))
            act(held[-1])
        except OSError:
            refused += 1
    begun()
    time.sleep(seconds)
    for one in held:
        one.close()
    return f"{len(held)} connections, {refused} refused"


def _repeat(address: str, seconds: float, begun: Begun, act: Callable[[Stranger, int], None]) -> str:
    begun()
    done, lost = repeat(address, seconds, act)
    return f"{done} times, {lost} connections lost"
