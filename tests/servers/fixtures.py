"""A pytest plugin: servers for the tests that ask for them, each started when the first one does.

Where a server is not installed, the tests that need it are left out, and the end of the run says so; with
`HOLDFAST_TEST_SERVERS=required`, as `make test-cloud` and CI set it, they fail.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from servers.azurite import Azurite
from servers.base import Server
from servers.ceph import Ceph
from servers.gcs import Gcs
from servers.processes import ServerFailed

SERVERS: dict[str, type[Server]] = {server.kind: server for server in (Ceph, Gcs, Azurite)}
KINDS = tuple(SERVERS)
REQUIRED = "HOLDFAST_TEST_SERVERS"
LEFT_OUT = "is not installed here: "

ObjectStore = Callable[[str], Server]


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """`object_store("s3").location()` is an empty place for one test; the kinds are `KINDS`."""
    started: dict[str, Server | ServerFailed] = {}

    def get(kind: str) -> Server:
        if kind not in started:
            if missing := SERVERS[kind].missing():
                give_up = pytest.fail if os.environ.get(REQUIRED) == "required" else pytest.skip
                give_up(f"{kind} server {LEFT_OUT}{missing}")
            try:
                started[kind] = SERVERS[kind]()
            except ServerFailed as error:
                started[kind] = error
        server = started[kind]
        if isinstance(server, ServerFailed):
            pytest.fail(str(server), pytrace=False)
        return server

    yield get
    for server in started.values():
        if isinstance(server, Server):
            server.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out, in one line."""
    reasons = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    counts = {kind: sum(f"{kind} server {LEFT_OUT}" in reason for reason in reasons) for kind in KINDS}
    parts = [f"{count} of {kind} (needs {SERVERS[kind].missing()})" for kind, count in counts.items() if count]
    if parts:
        terminalreporter.write_line(
            f"LEFT OUT: tests on real object stores, {', '.join(parts)}. "
            "`make test-cloud` installs, starts and uses them.",
            yellow=True,
            bold=True,
        )
