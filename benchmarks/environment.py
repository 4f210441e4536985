"""Where a run took place: what a reader needs to judge its figures by."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def describe() -> dict[str, str]:
    """Machine, versions and the commit measured."""
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{_memory('MemTotal') / 2**30:.0f} GiB",
        "kernel": platform.platform(),
        "python": platform.python_version(),
        "tensorflow": _version("tensorflow"),
        "crc32c": _version("crc32c"),
        "holdfast": f"{_version('holdfast')}, commit {_commit()}",
        "load before the run (1, 5, 15 minutes)": load(),
    }


def load() -> str:
    """Return how busy the machine is: figures taken beside other work are worth less."""
    return ", ".join(f"{value:.2f}" for value in os.getloadavg())


def file_system(path: Path) -> str:
    """Type of the file system that holds an existing path, such as `tmpfs` or `ext4`."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        mount, found = line.split()[1:3]
        if path.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, found
    return kind


def available_memory() -> int:
    """Return the bytes that can be taken without swapping."""
    return _memory("MemAvailable")


def _memory(field: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    git = ["git", "-C", str(_ROOT)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.strip() + (" with uncommitted changes" if changed else "")
