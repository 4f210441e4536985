"""healthcheck.py against a real gRPC health service, with and without TLS."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from holdfast_coordinator.certificate import self_made
from holdfast_protos.v1 import coordinator_pb2

HEALTHCHECK = Path(__file__).parents[2] / "deploy" / "healthcheck.py"
COORDINATOR = coordinator_pb2.DESCRIPTOR.services_by_name["Coordinator"].full_name

pytestmark = pytest.mark.processes


@pytest.fixture(params=["tls", "insecure"])
def service(request: pytest.FixtureRequest) -> Iterator[tuple[str, health.HealthServicer]]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if request.param == "tls":
        made = self_made()
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(made.key, made.chain)]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", servicer
    server.stop(None).wait()


def check(address: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HEALTHCHECK), address], capture_output=True, text=True, timeout=30, check=False
    )


def test_it_asks_for_the_coordinator_and_not_just_for_a_server(service: tuple[str, health.HealthServicer]) -> None:
    """The check asks for the coordinator, not just for a server. Guards against a server that counts as healthy while
    its coordinator does not serve."""
    address, servicer = service
    done = check(address)
    assert (done.returncode, done.stderr) == (1, "")
    assert "NOT_FOUND" in done.stdout

    servicer.set(COORDINATOR, health_pb2.HealthCheckResponse.NOT_SERVING)
    assert check(address).returncode == 1

    servicer.set(COORDINATOR, health_pb2.HealthCheckResponse.SERVING)
    assert check(address).returncode == 0


def test_nobody_there_is_unhealthy_in_one_line() -> None:
    """An address where nobody answers is unhealthy, in one line. Guards against a traceback that hides the address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = check(address)
    assert done.returncode == 1
    assert done.stdout.startswith(f"{address}: ")
    assert done.stdout.count("\n") == 1
