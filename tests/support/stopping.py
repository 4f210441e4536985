"""A process that stops itself, as by SIGSTOP from outside, at one exact place: just before a call of the system."""

from __future__ import annotations

import os
import re
import signal
import threading
from typing import Any


def stop_before(call: str, pattern: str) -> None:
    """Stop this process just before it makes a call of `os` on a path in which a pattern is found; once.

    call: "open", "write", "fsync", "link", "replace", "unlink" or the like. A file descriptor stands for the path under
        which it was opened, and the folder that a call is relative to counts.
    """
    original, wanted, armed = getattr(os, call), re.compile(pattern), [True]

    def stopping(*args: Any, **options: Any) -> Any:
        folder = next((f"{_path(value)}/" for key, value in options.items() if key.endswith("dir_fd")), "")
        named = [f"{folder}{arg}" for arg in args[:2] if isinstance(arg, str)]
        paths = [_path(args[0])] if isinstance(args[0], int) else named
        if armed and any(wanted.search(path) for path in paths):
            armed.clear()
            print("stopping", flush=True)
            # Sent to this very thread: another might take the signal of the process, and this one be quicker.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        return original(*args, **options)

    setattr(os, call, stopping)


def _path(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")
