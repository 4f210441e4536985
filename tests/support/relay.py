"""A way to a server that can be cut: what reaches it goes on as it is."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Relay:
    """Listens at `address`, and leads each connection to the target. While it `refuses`, new ones are ended at once."""

    def __init__(self, target: str) -> None:
        self.refuses = False
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def cut(self) -> None:
        """End all connections that there are. New ones may come."""
        with self._lock:
            ends, self._ends = self._ends, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.refuses:
                near.close()
                continue
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            with self._lock:
                self._ends += [near, far]
            threading.Thread(target=_carry, args=(near, far), name="relay", daemon=True).start()


@contextmanager
def relay(target: str) -> Iterator[Relay]:
    made = Relay(target)
    try:
        yield made
    finally:
        made.close()


def _carry(near: socket.socket, far: socket.socket) -> None:
    back = threading.Thread(target=_pour, args=(far, near), name="relay", daemon=True)
    back.start()
    _pour(near, far)
    back.join()
    near.close()
    far.close()


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
