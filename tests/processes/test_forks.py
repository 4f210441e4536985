"""Processes that are forked: with all the memory of their parent, and none of its threads."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from grpc._channel import Channel  # type: ignore[import-not-found]

from holdfast_storage.store import Store
from support.child import Child
from support.light_job import PROGRAMS, Start

pytestmark = pytest.mark.processes

OLD_GRPC = pytest.mark.skipif(
    not hasattr(Channel, "_postfork_child"),
    reason="this gRPC hangs in forks with its support of them",
)


def told(child: Child) -> list[dict[str, Any]]:
    """All that it tells, when it has ended."""
    assert child.wait() == 0, "\n".join(child.output)
    return [json.loads(line.removeprefix("told ")) for line in child.output if line.startswith("told ")]


def test_workers_that_are_forked_again(
    start: Start, store: Store, address: str, coordinate: Callable[[], Child]
) -> None:
    """Workers that are forked again are new workers. Guards against restoring nothing, and hearing of commits that
    nobody made, because they pass for those that crashed."""
    coordinate()
    found = told(start(PROGRAMS / "forking.py", store.url, "crashing", address))
    assert {each["restored"] for each in found if each.get("life") == 1 and "restored" in each} == {"None"}
    second = [each for each in found if each.get("life") == 2]
    assert not any("scratch" in each for each in second)
    assert len(second) == 6
    assert {each["restored"].rpartition("/")[2] for each in second} == {"ckpt-3"}
    assert all(each["there"] for each in second)
    assert {each["saved"].rpartition("/")[2] for each in second} == {"ckpt-4", "ckpt-5", "ckpt-6"}


def test_two_jobs_of_one_launcher(start: Start, store: Store) -> None:
    """Two jobs of one launcher are two jobs. Guards against a second job that takes the run from a living one because
    both pass for two managers of one process."""
    found = told(start(PROGRAMS / "forking.py", store.url, "two jobs"))
    by_job = [(each["job"], each["saved"]) for each in found]
    assert by_job[0][1].endswith("/ckpt-1")
    assert by_job[1][0] == "second"
    assert "another training job is running on this directory" in by_job[1][1]
    assert by_job[2][1].endswith("/ckpt-2")


@pytest.mark.parametrize("apart", [True, False])
def test_a_child_with_a_manager_of_its_own(
    start: Start, store: Store, address: str, coordinate: Callable[[], Child], apart: bool
) -> None:
    """A fork's own manager is refused at once. Guards against waiting the whole join timeout for a coordinator on a
    thread that a fork does not have."""
    if apart:
        coordinate()
    found = told(start(PROGRAMS / "forking.py", store.url, "own manager", *([address] if apart else [])))
    inherited, own, parent = found
    assert "from which this one was forked" in inherited["inherited"]
    assert inherited["closes"] == "None"
    assert own["quick"]
    if apart:
        assert own["own"].endswith("/ckpt-1")
    else:
        assert "'spawn' or 'forkserver'" in own["own"]
    assert parent["child"] == 0
    assert parent["parent"].endswith("/ckpt-2")


@pytest.mark.parametrize(("support", "saves"), [("0", 40), pytest.param("1", 5, marks=OLD_GRPC)])
def test_forks_amid_saves(start: Start, store: Store, support: str, saves: int) -> None:
    """A fork in the middle of a save changes nothing for its parent, whatever gRPC does in forks. Guards against a
    child that takes its parent out of the world, hangs, or makes its parent's save fail."""
    (found,) = told(start(PROGRAMS / "forking.py", store.url, "amid saves", saves, GRPC_ENABLE_FORK_SUPPORT=support))
    assert found == {"hung": 0, "commits": saves, "lost": []}
