"""A file system of its own that can be full: a small tmpfs, in a mount namespace that ends with the test.

Nothing of it is seen elsewhere: programs are started inside, and a test looks in from outside.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = os.sysconf("SC_PAGE_SIZE")
"""Bytes that even the smallest file takes."""

# First for root, then for others, where the system lets them be root in a namespace of their own.
WAYS = (["mount"], ["user", "mount"])

_MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$0" && echo mounted && exec cat'


class SmallDisk:
    """The file system, mounted at `path` for those inside.

    outside: the same, for others. A `PosixStore` does not open it, since it leads through a link of the system's.
    prefix: what a command begins with that is to be run inside.
    """

    def __init__(self, path: Path, holder: int, namespaces: list[str]) -> None:
        self.path = path
        self.outside = Path(f"/proc/{holder}/root{path}")
        enter = [f"--{name}" for name in namespaces]
        self.prefix = ["nsenter", f"--target={holder}", *enter, "--preserve-credentials", "--"]
        self._namespaces = [f"/proc/{holder}/ns/{'mnt' if name == 'mount' else name}" for name in namespaces]
        self._filler = self.outside / "filler"

    def fill(self, leave: int) -> None:
        """Leave so many bytes free, in whole pages."""
        self.empty()
        with open(self._filler, "wb") as file:
            if (size := self.free - leave) > 0:
                os.posix_fallocate(file.fileno(), 0, size)

    def empty(self) -> None:
        self._filler.unlink(missing_ok=True)

    @property
    def free(self) -> int:
        """The free bytes."""
        status = os.statvfs(self.outside)
        return status.f_bavail * status.f_frsize

    def enter(self) -> None:
        """Move this process inside. It must have one thread only."""
        libc = ctypes.CDLL(None, use_errno=True)
        for namespace in self._namespaces:
            fd = os.open(namespace, os.O_RDONLY)
            if libc.setns(fd, 0):
                raise OSError(ctypes.get_errno(), "setns", namespace)
            os.close(fd)


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[SmallDisk]:
    """One of `size` bytes, mounted at a new folder. See `not_permitted` for where that is not possible."""
    path.mkdir()
    for namespaces in WAYS:
        options = [f"--{name}" for name in namespaces] + ["--map-root-user"] * ("user" in namespaces)
        command = ["unshare", *options, "--", "sh", "-c", _MOUNT, str(path), str(size)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, **pipes) as holder:
            try:
                if holder.stdout.readline():
                    yield SmallDisk(path, holder.pid, namespaces)
                    return
            finally:
                holder.kill()
    not_permitted("to mount a file system")


def not_permitted(what: str) -> None:
    """Skip a test for which this environment gives no right; in CI it fails, where it must not go unnoticed."""
    if os.environ.get("CI"):
        pytest.fail(f"this environment does not give the right {what}")
    pytest.skip(f"needs the right {what}")
