"""Where `cryptography` is missing or broken, nothing listens to the network, and a world of one does not need it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from holdfast_storage.errors import InvalidRequest
from support.light_worker import World, all_join, outcomes


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)


def test_a_world_of_one_needs_none(missing: None, world: World) -> None:
    """A job of one worker saves. Guards against a dependency that keeps those from training who have no network."""
    workers = world(1)
    all_join(workers)
    assert outcomes([workers[0].save(1)]) == [None]


def test_nobody_listens_to_the_network_without_it(missing: None, world: World) -> None:
    """A job of several workers ends with what to install. Guards against a coordinator that listens without TLS because
    it cannot make a certificate."""
    chief, _ = world(2)
    with pytest.raises(InvalidRequest, match="install cryptography"):
        chief.join()


@pytest.mark.processes
def test_it_is_imported_only_where_it_is_used() -> None:
    """The modules of workers and coordinators can be imported without it. Guards against an import at the top of one,
    which no other test would notice."""
    program = "import sys; sys.modules['cryptography'] = None; import holdfast_coordinator.embedded, holdfast.cli"
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)
