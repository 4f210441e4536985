"""How much memory there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.restoring.free_memory import available

GIB = 1 << 30


@pytest.fixture
def host(tmp_path: Path) -> tuple[Path, Path]:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (groups / "memory").mkdir(parents=True)
    proc.mkdir()
    (proc / "meminfo").write_text(f"MemTotal: 99 kB\nMemFree: 1 kB\nMemAvailable:   {8 * GIB >> 10} kB\n")
    return proc, groups


def test_of_the_host(host: tuple[Path, Path]) -> None:
    """Without limits the host's free memory counts. Guards against a host without limits that is taken for one without
    memory."""
    assert available(*host) == 8 * GIB


@pytest.mark.parametrize(
    ("folder", "limit", "usage", "idle"),
    [
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_of_a_container(host: tuple[Path, Path], folder: str, limit: str, usage: str, idle: str) -> None:
    """A container's limit counts. Guards against a restore that is killed because the host has more than the container
    may use."""
    group = host[1] / folder
    (group / limit).write_text(f"{4 * GIB}\n")
    (group / usage).write_text(f"{3 * GIB}\n")
    (group / "memory.stat").write_text(f"anon 1\n{idle} {GIB // 2}\nfile 7\n")
    assert available(*host) == GIB + GIB // 2
    (group / limit).write_text("max\n" if not folder else f"{1 << 63}\n")
    assert available(*host) == 8 * GIB


@pytest.mark.parametrize(
    ("line", "limit", "usage"),
    [
        ("0::/{}", "{}/memory.max", "{}/memory.current"),
        ("4:cpu,memory:/{}", "memory/{}/memory.limit_in_bytes", "memory/{}/memory.usage_in_bytes"),
    ],
)
@pytest.mark.parametrize("limited", ["job/step", "job", "."])
def test_of_a_job(host: tuple[Path, Path], line: str, limit: str, usage: str, limited: str) -> None:
    """The limit of any group above counts. Guards against the same under Slurm or systemd."""
    (host[0] / "self").mkdir()
    (host[0] / "self" / "cgroup").write_text(f"1:name=systemd:/elsewhere\n{line.format('job/step')}\n")
    for name, size in ((limit, 4 * GIB), (usage, 3 * GIB)):
        file = host[1] / name.format(limited)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{size}\n")
    assert available(*host) == GIB


def test_nothing_is_left(host: tuple[Path, Path]) -> None:
    """If a limit is exceeded, nothing is free. Guards against a negative number of bytes."""
    (host[1] / "memory.max").write_text("1000")
    (host[1] / "memory.current").write_text("2000")
    assert available(*host) == 0


def test_here() -> None:
    """This kernel's files are understood. Guards against a format that only the test has."""
    assert available() > 0
