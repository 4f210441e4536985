"""Ports of 127.0.0.1 that are named before anybody listens on them. No two test processes are given the same one."""

from __future__ import annotations

import random
import socket
from contextlib import closing, suppress

FIRST, LAST = 20_000, 32_000
"""The system gives those above to outgoing connections."""


def free_port() -> int:
    """Return a port that nobody listens on now."""
    while True:
        port = random.SystemRandom().randrange(FIRST, LAST)
        # The port is claimed by a name in Linux's abstract namespace, which lasts as long as this process.
        with suppress(OSError), closing(socket.socket(socket.AF_UNIX)) as claim:
            claim.bind(f"\0holdfast-test-port-{port}")
            socket.create_server(("127.0.0.1", port)).close()
            claim.detach()
            return port


def free_address() -> str:
    """Return the same as HOST:PORT."""
    return f"127.0.0.1:{free_port()}"
