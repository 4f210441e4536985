"""The identity of this process: an id that no other process has, however it was made.

A fork inherits all memory, and so does a process that was restored from a checkpoint of itself. So the id is kept under
what the kernel says about the process, and changes when that changes.
"""

from __future__ import annotations

import os
import secrets

from holdfast_protos.proofs import process_of

_secrets: dict[object, bytes] = {}
"""The secrets of this process and, in a fork, of its ancestors."""


def process_secret() -> bytes:
    """Return the secret of this process, with which it proves to a coordinator that it is the one of its id."""
    return _secrets.setdefault(_of_kernel(), secrets.token_bytes(16))


def process_id() -> str:
    """Return the id of this process, 20 hexadecimal digits. Its n-th manager is the incarnation `id.n`."""
    return process_of(process_secret())


def _of_kernel() -> tuple[int, bytes, bytes]:
    """Return what the kernel says about this process. Two processes with the same memory differ in it."""
    try:
        with open("/proc/self/stat", "rb") as file:
            # Field 22, after the name in brackets, which may hold anything: the ticks from boot to the process's start.
            started = file.read().rpartition(b")")[2].split()[19]
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return os.getpid(), started, file.read()
    except (OSError, IndexError):  # without Linux's files a fork is noticed all the same
        return os.getpid(), b"", b""
