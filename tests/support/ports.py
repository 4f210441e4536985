"""Ports of 127.0.0.1 that are named before anybody listens on them. No two test processes are given the same one."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

FIRST, LAST = 20_000, 32_000
"""The system gives those above to outgoing connections."""

_claims: list[socket.socket] = []


def free_port(count: int = 1) -> int:
    """Return a port that nobody listens on now, or the first of so many that follow each other."""
    while True:
        first = random.SystemRandom().randrange(FIRST, LAST)
        with suppress(OSError):
            for port in range(first, first + count):
                # The port is claimed by a name in Linux's abstract namespace, which lasts as long as this process.
                claim = socket.socket(socket.AF_UNIX)
                _claims.append(claim)
                claim.bind(f"\0holdfast-test-port-{port}")
                socket.create_server(("127.0.0.1", port)).close()
            return first


def free_address() -> str:
    """Return the same as HOST:PORT."""
    return f"127.0.0.1:{free_port()}"
