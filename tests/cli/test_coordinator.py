"""`holdfast coordinator`."""

from __future__ import annotations

import re
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals

import pytest
from click.testing import Result
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.coordinators import channel_to

Holdfast = Callable[..., Result]


@pytest.mark.parametrize("listen", ["7070", "127.0.0.1", "127.0.0.1:", ":7070", "host:port", "host:70000", "::1:7070"])
def test_refuses_what_is_no_address(holdfast: Holdfast, tmp_path: Path, listen: str) -> None:
    """A mistyped address is refused. Guards against a coordinator that no worker finds, and a gRPC traceback."""
    result = holdfast("coordinator", "--root", tmp_path, "--listen", listen)
    assert result.exit_code == 2
    assert f"{listen!r} is not HOST:PORT" in result.stderr


def test_refuses_a_root_that_is_not_there(holdfast: Holdfast, tmp_path: Path) -> None:
    """A missing root is refused. Guards against making it on the local disk below a missing mount, so that all
    checkpoints go there."""
    result = holdfast("coordinator", "--root", tmp_path / "mount", "--listen", "127.0.0.1:0")
    assert result.exit_code == 2
    assert f"{tmp_path / 'mount'} cannot be written (No such file or directory)" in result.stderr
    assert not (tmp_path / "mount").exists()


def test_refuses_a_root_that_cannot_be_written(holdfast: Holdfast) -> None:
    """A root that cannot be written is refused at the start. Guards against finding out at the first save, hours into
    the training."""
    result = holdfast("coordinator", "--root", "/proc/self", "--listen", "127.0.0.1:0")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--tls-cert", "c"], "--tls-cert and --tls-key belong together"),
        (["--tls-key", "k"], "--tls-cert and --tls-key belong together"),
        (["--tls-client-ca", "a"], "--tls-client-ca needs --tls-cert and --tls-key"),
        (["--insecure", "--token-file", "t"], "--insecure is without TLS and for everybody"),
        (["--insecure", "--tls-cert", "c", "--tls-key", "k"], "--insecure is without TLS and for everybody"),
        (["--tls-cert", "/no/c", "--tls-key", "k"], "/no/c cannot be read: No such file or directory"),
        (["--token-file", "/no/t"], "/no/t cannot be read: No such file or directory"),
    ],
)
def test_refuses_options_that_cannot_be_meant(holdfast: Holdfast, tmp_path: Path, options: list[str], why: str) -> None:
    """Options that contradict each other, and files that cannot be used, are refused with a sentence. Guards against a
    coordinator that seems to be protected, and against a traceback."""
    result = holdfast("coordinator", "--root", tmp_path, "--listen", "127.0.0.1:0", *options)
    assert result.exit_code == 2
    assert why in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.processes
def test_refuses_a_port_that_is_taken(tmp_path: Path) -> None:
    """A taken port is refused. Guards against two coordinators on one port that divide the workers between them, so
    that each waits for the others for ever."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "holdfast.cli", "coordinator", "--root", str(tmp_path), "--listen", address]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert f"holdfast: cannot listen on {address}" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.processes
@pytest.mark.parametrize("signal", [SIGTERM, SIGINT])
def test_tells_its_port_and_ends_cleanly(tmp_path: Path, signal: Signals) -> None:
    """The coordinator logs its port and ends cleanly on SIGTERM. Guards against a port that nobody knows, and a
    traceback at every orderly end."""
    with _started(tmp_path) as (process, port):
        with channel_to(f"127.0.0.1:{port}") as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        process.send_signal(signal)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in stderr


@contextmanager
def _started(root: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-m", "holdfast.cli", "coordinator", "--root", str(root), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert select.select([process.stderr], [], [], 30)[0], "nothing was logged"
        found = re.search(r"listens on 127\.0\.0\.1:(\d+)", process.stderr.readline())
        assert found
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()
