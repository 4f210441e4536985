"""Folders for files that are only passed on.

A signal handler may raise at any instant. `shutil.rmtree` and `tempfile.TemporaryDirectory` close a descriptor a second
time if that happens while they close it: then OSError takes the place of what was raised, or a file that another thread
has opened meanwhile is closed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PREFIX = "holdfast-"


def make_folder() -> str:
    """Make a folder in the one for temporary files."""
    return tempfile.mkdtemp(prefix=PREFIX)


def remove_folder(path: str) -> None:
    """Remove a folder and all that is in it, as far as that is possible. Links are not followed."""
    for folder, folders, files in os.walk(path, topdown=False):
        for each in (os.path.join(folder, name) for name in (*files, *folders)):
            with suppress(OSError):
                (os.rmdir if os.path.isdir(each) and not os.path.islink(each) else os.unlink)(each)
    with suppress(OSError):
        os.rmdir(path)


@contextmanager
def scratch_folder() -> Iterator[str]:
    """A folder that is there as long as this context."""
    path = make_folder()
    try:
        yield path
    finally:
        remove_folder(path)
