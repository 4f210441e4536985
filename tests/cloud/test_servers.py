"""The servers of the tests: what the tests of the product rely on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from servers.base import BUCKET, Location, Server
from servers.fixtures import KINDS, ObjectStore
from servers.processes import Processes, ServerFailed
from support.child import Child

TESTS = Path(__file__).parents[1]


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, object_store: ObjectStore) -> Server:
    return object_store(request.param)


def path(location: Location, name: str) -> str:
    return f"{location.url.partition('://')[2]}/{name}"


def test_places_are_empty_and_apart(server: Server) -> None:
    """Each test gets an empty place of its own. Guards against tests that find what others have left."""
    one, other = server.location(), server.location()
    files = server.files
    files.pipe_file(path(one, "a"), b"x")
    assert files.find(one.url) == [path(one, "a")]
    assert files.find(other.url) == []


def test_a_store_on_disk(object_store: ObjectStore) -> None:
    """A store on disk comes up. Guards against a kind of Ceph that only benchmarks use and that nobody tests."""
    object_store("s3")  # left out where Ceph is missing
    server = type(object_store("s3"))(objectstore="bluestore")
    try:
        assert server.files.ls(BUCKET) == []
    finally:
        server.stop()


def test_failure_names_the_log() -> None:
    """The failure of a server names its log. Guards against a server that does not come up in CI for an unknown
    reason."""
    processes = Processes("test")
    processes.start([sys.executable, "-c", "print('no such setting')"])
    with pytest.raises(ServerFailed, match="ended") as raised:
        processes.wait_for(1)
    assert str(processes.log) in str(raised.value)
    assert "no such setting" in str(raised.value)
    assert processes.log.read_text() == "no such setting\n"
    processes.stop()
    assert not processes.folder.exists()


PROGRAM = """
import sys, psutil, servers.fixtures
server = servers.fixtures.SERVERS[sys.argv[1]]()
print("processes", *[process.pid for process in psutil.Process().children(recursive=True)], flush=True)
input()
"""


@pytest.mark.processes
@pytest.mark.parametrize("kind", KINDS)
def test_servers_end_with_the_tests(object_store: ObjectStore, tmp_path: Path, kind: str) -> None:
    """Servers end with the tests. Guards against servers that run for ever after the tests were killed."""
    object_store(kind)  # left out where it is missing
    child = Child(["-c", PROGRAM, kind], {"TMPDIR": str(tmp_path)})
    try:
        processes = [psutil.Process(int(pid)) for pid in child.expect("processes").split()[1:]]
        assert processes
        child.send(signal.SIGKILL)
        child.wait()
        _, alive = psutil.wait_procs(processes, timeout=30)
        assert alive == []
    finally:
        child.end()


@pytest.mark.processes
@pytest.mark.parametrize(("required", "processes"), [(False, 2), (True, 0)])
def test_what_is_left_out_is_said(tmp_path: Path, required: bool, processes: int) -> None:
    """One last line tells of the tests that are left out, and in CI they fail. Guards against tests on real servers
    that are never run without anybody noticing, and against a line for each of hundreds."""
    needing = "def test_{}(object_store): object_store('s3')\n"
    (tmp_path / "test_it.py").write_text(needing.format(1) + needing.format(2) + "def test_3(): pass\n")
    plugins = ["-p", "servers.fixtures", "-p", "support.groups", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, "-ra", f"--numprocesses={processes}", tmp_path],
        env={"PATH": "", "PYTHONPATH": str(TESTS), "HOLDFAST_TEST_SERVERS": "required" if required else ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "SKIPPED" not in ended.stdout
    *_, counts, last = ended.stdout.splitlines()
    if required:
        assert "2 failed, 1 passed" in last
        assert "LEFT OUT" not in ended.stdout
    else:
        assert "1 passed, 2 left out" in counts
        assert last.startswith("LEFT OUT: 2 tests on real object stores (missing here: ceph, ")
        assert "`make test-cloud`" in last
