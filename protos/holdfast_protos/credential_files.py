"""Files with certificates, keys and tokens, as people and their tools put them in place."""

from __future__ import annotations

import os
import stat
from contextlib import closing

LARGEST = 1 << 20
"""The most bytes of such a file."""


class UnusableFile(ValueError):
    """A file cannot be used. The message begins with its path and says what was expected."""


def read(path: str, *, secret: bool = False) -> bytes:
    """Return what is in a regular file. Raises UnusableFile.

    secret: as ssh does, refuse a file of this user that others may read. A file of another user is that user's matter:
        Kubernetes gives the files of a Secret to root, and lets the pod's group read them.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with closing(os.fdopen(descriptor, "rb")) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnusableFile(f"{path} is not a regular file")
            if secret and status.st_uid == os.getuid() and status.st_mode & 0o077:
                mode = stat.S_IMODE(status.st_mode)
                raise UnusableFile(f"{path} can be read by others (mode {mode:04o}): chmod 600 {path}")
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise UnusableFile(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > LARGEST:
        raise UnusableFile(f"{path} has more than {LARGEST:,} bytes")
    return content
