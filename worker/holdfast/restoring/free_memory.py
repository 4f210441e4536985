"""The memory that this process may still take, according to Linux and its control groups.

https://docs.kernel.org/filesystems/proc.html and https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

_GROUPS = (  # controller, limit, usage, and used memory that can be reclaimed, for both versions
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the available bytes. A limit that cannot be read does not count."""
    free = [_field(proc / "meminfo", "MemAvailable:") << 10]
    for controller, limit, usage, idle in _GROUPS:
        group = _group(proc / "self" / "cgroup", controller)
        for folder in (groups / controller / each for each in (group, *group.parents)):
            try:
                most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
            except (OSError, ValueError):
                continue
            free.append(most - used + _field(folder / "memory.stat", idle))
    return max(0, min(free))


def _group(file: Path, controller: str) -> PurePosixPath:
    """Return the group of this process, relative to the root group; a container may show its own as the root."""
    try:
        lines = [line.split(":", 2) for line in file.read_text().splitlines()]
    except OSError:
        lines = []
    found = next((path for _, names, path in lines if controller in names.split(",")), "/").lstrip("/")
    return PurePosixPath("" if ".." in found else found)


def _field(file: Path, name: str) -> int:
    """Return the number after a name in a file of lines; 0 if it is missing."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)
