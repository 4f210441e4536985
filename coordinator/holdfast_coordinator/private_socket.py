"""A socket in the file system that only this host's own user reaches: each in a new folder of that user alone."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from holdfast_protos.client import is_listening
from holdfast_protos.conventions import UNIX
from holdfast_storage.errors import InvalidRequest

_PREFIX = "holdfast-"
_NAME = "socket"

LONGEST = 100
"""The bytes of a socket's path: the kernel takes 107."""

_PLAIN = re.compile(r"[\w./:=@+~ -]+")
"""What means itself in an address of gRPC's, where a comma, "%", "#" and "?" do not, and in an entry of the log."""


@contextmanager
def private_socket() -> Iterator[str]:
    """Yield the path for a socket, which is removed afterwards, as is first what this host's killed processes
    have left.

    Raises InvalidRequest if there is no folder for it.
    """
    try:
        above, prefix = tempfile.gettempdir(), prefix_here()
        if len(os.fsencode(above)) + len(prefix) + len(_NAME) + 10 > LONGEST or not _PLAIN.fullmatch(above):
            above = "/tmp"
        for folder in glob.glob(f"{glob.escape(above)}/{prefix}*"):
            with suppress(OSError):
                _remove_if_left(folder)
        folder = tempfile.mkdtemp(prefix=prefix, dir=above)
    except OSError as error:
        raise InvalidRequest(
            "a job makes a socket for itself, and no folder for temporary files can be written: set TMPDIR to one with "
            f"a short path ({error})"
        ) from error
    try:
        yield f"{folder}/{_NAME}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def prefix_here() -> str:
    """Return how the names of this host's folders begin. A folder for temporary files may be on a network file system,
    and nobody reaches another host's sockets in it, although their processes live."""
    return _PREFIX + hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]


def _remove_if_left(folder: str) -> None:
    """Remove a folder of this user with a socket at which nobody listens."""
    status = os.lstat(folder)
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) != 0o700 or os.listdir(folder) != [_NAME]:
        return
    path = f"{folder}/{_NAME}"
    if stat.S_ISSOCK(os.lstat(path).st_mode) and not is_listening(f"{UNIX}{path}", 1.0):
        os.unlink(path)
        os.rmdir(folder)
