"""A pytest plugin: servers for the tests that ask for them, each started when the first one does.

Where a server is not installed, the tests that need it are left out, and the last line of the run says so; with
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


def pytest_report_teststatus(report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, str] | None:
    """One line at the end tells of those that were left out, instead of a line for each."""
    if report.skipped and LEFT_OUT in str(report.longrepr):
        return "left out", "s", "LEFT OUT"
    return None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Report what was left out after everything else."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    reasons = [str(report.longrepr) for report in reporter.stats.get("left out", [])] if reporter else []
    kinds = [kind for kind in KINDS if any(f"{kind} server {LEFT_OUT}" in reason for reason in reasons)]
    if kinds:
        needed = ", ".join(SERVERS[kind].missing() for kind in kinds)
        reporter.write_line(
            f"LEFT OUT: {len(reasons)} tests on real object stores (missing here: {needed}). "
            "`make test-cloud` installs them and runs everything.",
            yellow=True,
            bold=True,
        )
