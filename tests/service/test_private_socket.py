"""The socket of a world of one: who reaches it, and what is left of it."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_coordinator.private_socket import LONGEST, prefix_here, private_socket
from holdfast_coordinator.server import Server
from holdfast_storage.errors import InvalidRequest


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files, with a name that leaves room for a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def left(folder: Path, *, mode: int = 0o700) -> socket.socket:
    """What a killed process leaves in a folder: a socket at which nobody listens, once it is closed."""
    folder.mkdir(mode=mode)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "socket"))
    listening.listen()
    return listening


def test_its_folder_is_its_users_alone_and_goes_with_it(temporary: Path) -> None:
    """Only this user reaches the socket. Guards against another user of the host, and folders that pile up."""
    with private_socket() as path:
        folder = Path(path).parent
        assert folder.parent == temporary
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        Path(path).touch()
    assert list(temporary.iterdir()) == []


def test_what_killed_processes_have_left_is_removed(temporary: Path) -> None:
    """A socket at which nobody listens is removed, and nothing else. Guards against folders that pile up after kills,
    and against a living process that loses its socket, also one on another host with the same TMPDIR."""
    here = prefix_here()
    left(temporary / f"{here}dead").close()
    left(temporary / "holdfast-elsewhere").close()
    listening = left(temporary / f"{here}alive")
    (temporary / f"{here}starting").mkdir(0o700)
    left(temporary / f"{here}shared", mode=0o755).close()
    (temporary / f"{here}more").mkdir(0o700)
    (temporary / f"{here}more" / "thesis").touch()
    (temporary / f"{here}link").symlink_to(temporary / f"{here}alive")
    with private_socket() as path:
        there = {each.name for each in temporary.iterdir()} - {Path(path).parent.name}
    listening.close()
    kept = ["holdfast-elsewhere", *(f"{here}{name}" for name in ("alive", "starting", "shared", "more", "link"))]
    assert there == set(kept)
    assert (temporary / f"{here}alive" / "socket").exists()


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is elsewhere. Guards against a job that cannot start since its folder for temporary files is deep."""
    deep = tmp_path / ("d" * LONGEST)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with private_socket() as path:
        assert len(os.fsencode(path)) < LONGEST
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)


@pytest.mark.parametrize("name", ["50%20", "a,b", "#1", "why?", "two\nlines", "\udcff"])
def test_a_folder_whose_name_means_something_else_in_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The socket is elsewhere. Guards against a job that cannot start, or cannot read its own log, since its folder for
    temporary files has such a name."""
    odd = tmp_path / name
    odd.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    with private_socket() as path:
        assert Path(path).parents[1] == Path("/tmp")


@pytest.mark.parametrize("name", ["two words", "Über-größe", "1234.tmpdir", "a:b=c@d+e~f"])
def test_a_folder_with_an_ordinary_name(temporary: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A coordinator listens there. Guards against a rule that is stricter, or less so, than gRPC is."""
    (temporary / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / name))

    async def listens(path: str) -> bool:
        server = Server()
        await server.start(socket_path=path)
        there = stat.S_ISSOCK(os.stat(path).st_mode)
        await server.stop(0.0)
        return there

    with private_socket() as path:
        assert Path(path).parents[1] == temporary / name
        assert asyncio.run(listens(path))


def test_no_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to set. Guards against a container with a read-only file system in which a job ends with a
    bare error of Python's."""

    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(InvalidRequest, match="set TMPDIR"), private_socket():
        pass


def test_a_folder_that_takes_no_sockets(tmp_path: Path) -> None:
    """The error names the socket and says what to set. Guards against gRPC's words, which name its own variable."""
    path = tmp_path / "there is none" / "socket"
    with pytest.raises(InvalidRequest, match="there is none/socket: set TMPDIR"):
        asyncio.run(Server().start(socket_path=str(path)))
