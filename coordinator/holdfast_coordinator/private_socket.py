"""A socket in the file system that only this host's own user reaches: each in a new folder of that user alone."""

from __future__ import annotations

import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from holdfast_protos.client import is_listening
from holdfast_protos.conventions import UNIX

_PREFIX = "holdfast-"
_NAME = "socket"

LONGEST = 100
"""The bytes of a socket's path: the kernel takes 107."""


@contextmanager
def private_socket() -> Iterator[str]:
    """Yield the path for a socket, which is removed afterwards, as is first what killed processes have left."""
    above = tempfile.gettempdir()
    if len(os.fsencode(above)) + len(_PREFIX) + len(_NAME) + 10 > LONGEST:
        above = "/tmp"
    for folder in glob.glob(f"{glob.escape(above)}/{_PREFIX}*"):
        with suppress(OSError):
            _remove_if_left(folder)
    folder = tempfile.mkdtemp(prefix=_PREFIX, dir=above)
    try:
        yield f"{folder}/{_NAME}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left(folder: str) -> None:
    """Remove a folder of this user with a socket at which nobody listens."""
    status = os.lstat(folder)
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) != 0o700 or os.listdir(folder) != [_NAME]:
        return
    path = f"{folder}/{_NAME}"
    if stat.S_ISSOCK(os.lstat(path).st_mode) and not is_listening(f"{UNIX}{path}", 1.0):
        os.unlink(path)
        os.rmdir(folder)
