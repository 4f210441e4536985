"""How workers look, and what is told of them when a save is late."""

from __future__ import annotations

import pytest

from holdfast_coordinator.core.membership import ALIVE_FOR, LOST_AFTER, World, last_seen
from holdfast_coordinator.status import STUCK_AFTER, worker_statuses
from holdfast_storage.cluster import Task
from holdfast_storage.records import Generation

A, B = Task("worker", 0), Task("worker", 1)
NOW = 1000.0
FINE = {"connections": 1, "heard": NOW, "since": NOW - 500, "progressed": NOW - 500, "phase": "write", "lost": None}


def world(**presence: object) -> World:
    made = World(Generation("0badcafe", ((A, "p.1"), (B, "q.1"))), ())
    made.update(A, **{**FINE, **presence})
    return made


@pytest.mark.parametrize(
    ("presence", "waited_since", "expected"),
    [
        ({}, None, "present"),
        ({"heard": NOW - ALIVE_FOR}, None, "silent"),
        ({"heard": NOW - ALIVE_FOR + 0.1}, None, "present"),
        ({"heard": None}, None, "silent"),
        ({"connections": 0, "lost": NOW - LOST_AFTER}, None, "lost"),
        ({"connections": 0, "lost": NOW - LOST_AFTER + 0.1}, None, "away"),
        ({}, NOW - STUCK_AFTER, "stuck"),
        ({}, NOW - STUCK_AFTER + 0.1, "present"),
        ({"progressed": NOW - STUCK_AFTER + 0.1}, NOW - 500, "present"),
        ({"progressed": NOW - STUCK_AFTER}, NOW - 500, "stuck"),
        ({"heard": NOW - ALIVE_FOR}, NOW - 500, "silent"),
    ],
)
def test_standing(presence: dict[str, object], waited_since: float | None, expected: str) -> None:
    """Each worker's state follows from its heartbeats and progress. Guards against calling a worker stuck that trains
    for an hour, and missing one that is."""
    made = world(**presence)
    waiting_for = [] if waited_since is None else [A]
    worker = worker_statuses(made, NOW, waiting_for, waited_since or NOW)[0]
    assert worker.standing == expected
    assert worker.alive == made.alive(A, NOW)


def test_who_has_left_is_neither_lost_nor_silent() -> None:
    """A worker that has left is neither lost nor silent. Guards against an alarm after a good end."""
    made = world(connections=0, lost=0.0)
    made.left.add(A)
    assert worker_statuses(made, NOW, [A], 0.0)[0].standing == "left"


def test_last_seen_tells_how_far_it_was() -> None:
    """The last news of a worker says how far it was. Guards against an error that names a worker and not what
    it did."""
    made = world(bytes_done=1000, bytes_total=4096, heard=NOW - 2, progressed=NOW - 480)
    assert last_seen(made, [A, B], NOW) == (
        "worker-0: in phase 'write' for 500 s, 1,000 of 4,096 bytes, without progress for 480 s, heard 2 s ago; "
        "worker-1 was never heard from"
    )
    made = world(phase="train", connections=0)
    assert last_seen(made, [A], NOW) == ("worker-0: in phase 'train' for 500 s, heard 0 s ago, its connection is gone")
