"""Jobs on real object stores, with a proxy between that goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import holdfast_coordinator.driver
from servers.base import Location, Server
from servers.fault_proxy import FaultProxy


@pytest.fixture
def proxied() -> Iterator[Callable[[Server], FaultProxy]]:
    """Puts a proxy before a server."""
    proxies: list[FaultProxy] = []

    def put(server: Server) -> FaultProxy:
        proxies.append(FaultProxy(server.endpoint, server.kind))
        return proxies[-1]

    yield put
    for proxy in proxies:
        proxy.stop()


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch) -> Callable[[Location], None]:
    """Gives a coordinator in this process its credentials, as variables."""

    def tell(location: Location) -> None:
        for name, value in location.environment.items():
            monkeypatch.setenv(name, value)

    return tell


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks often: what happens does not change, only how long one waits for it."""
    monkeypatch.setattr(holdfast_coordinator.driver, "TICK", 0.02)
