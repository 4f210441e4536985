"""Which process this is: an id that no other has, however that was made.

A fork inherits all memory, and so does what a checkpoint of a process or container is restored to. The id belongs to
what the kernel says of the process, and is another one as soon as that is another.
"""

from __future__ import annotations

import os
import secrets

_ids: dict[object, str] = {}
"""Of this process; in a fork, of those before it as well."""


def process_id() -> str:
    """The id of this process: 12 hexadecimal digits. Its n-th manager is the incarnation `id.n`."""
    return _ids.setdefault(_of_kernel(), secrets.token_hex(6))


def _of_kernel() -> tuple[int, bytes, bytes]:
    """What the kernel knows this process by: two that share memory's contents differ in it."""
    try:
        with open("/proc/self/stat", "rb") as file:
            # Behind the name in brackets, which may hold anything: field 22, the ticks from boot to its start.
            started = file.read().rpartition(b")")[2].split()[19]
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return os.getpid(), started, file.read()
    except (OSError, IndexError):  # no Linux: a fork is noticed all the same
        return os.getpid(), b"", b""
