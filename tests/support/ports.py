"""Ports of 127.0.0.1 that are named before anybody listens on them."""

from __future__ import annotations

import itertools
import os
import random
import socket
from contextlib import suppress

FIRST = 20_000
SHARES, SHARE = 8, 1_500
"""Ports up to 32,000: the system gives those above to outgoing connections."""

_share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES
_tries = itertools.count(random.SystemRandom().randrange(SHARE))


def free_port() -> int:
    """A port that nobody listens on now, and that no other test that runs at the same time is given."""
    while True:
        port = FIRST + _share * SHARE + next(_tries) % SHARE
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def free_address() -> str:
    """The same as HOST:PORT."""
    return f"127.0.0.1:{free_port()}"
