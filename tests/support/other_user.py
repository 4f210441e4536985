"""Programs that run as another user. Only root can start them."""

from __future__ import annotations

import shlex
import stat
import sys
from collections.abc import Collection
from pathlib import Path

PATHS = (sys.base_prefix, sys.prefix, __file__)
"""What every program of the tests must be able to read."""

_OPENED = (
    "mount -t tmpfs tmpfs /mnt && mkdir -m 755 /mnt/upper /mnt/work && "
    "mount -t overlay -o lowerdir={0},upperdir=/mnt/upper,workdir=/mnt/work overlay {0} && "
)


def as_user(user: int, groups: Collection[int], umask: int) -> list[str]:
    """Return what a command begins with that a user of these groups, and of one of his own, is to run.

    The interpreter often lies in root's home. If so, the program sees that folder with a mode that lets it pass.
    """
    parents = {parent for path in PATHS for parent in Path(path).resolve().parents}
    closed = sorted(parent for parent in parents if not parent.stat().st_mode & stat.S_IXOTH)
    opened = _OPENED.format(shlex.quote(str(closed[0]))) if closed else ""
    identity = f"setpriv --reuid={user} --regid={user} --groups={','.join(map(str, groups))}"
    script = f'{opened}umask {umask:03o} && exec {identity} "$0" "$@"'
    return ["unshare", "--mount", "sh", "-c", script]
