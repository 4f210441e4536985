"""Strangers on the network, who know where a coordinator listens and nothing else. They speak TLS, which anybody may,
and HTTP/2 frame by frame, so that they can do what no gRPC client does."""

from __future__ import annotations

import socket
import ssl
import time
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
