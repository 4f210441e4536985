"""`save_every`: what a program writes, and what the coordinator is told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import holdfast
from holdfast.arguments import Arguments
from holdfast.save_interval import YoungDaly, seconds
from holdfast.session.requests import Requests
from holdfast_coordinator import wire
from holdfast_coordinator.core.messages import Caller
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.cluster import Task
from holdfast_storage.errors import InvalidRequest

CHECK = Arguments.__dataclass_fields__["save_every"].metadata["check"]


@pytest.mark.parametrize(
    ("given", "arrives"),
    [
        (None, (0.0, False)),
        (timedelta(minutes=2), (120.0, False)),
        (timedelta(microseconds=1), (1e-6, False)),
        (holdfast.young_daly(), (600.0, True)),
    ],
)
def test_it_arrives(given: Any, arrives: tuple[float, bool]) -> None:
    """What a program says of its saves by the clock arrives. Guards against an interval that is asked for and never
    kept."""
    taken = CHECK("save_every", given)
    requests = Requests(save_every=seconds(taken), young_daly=isinstance(taken, YoungDaly))
    beat = pb.Heartbeat()
    requests.describe(beat)
    heard = wire.heartbeat(Caller("0000000a", Task("worker", 0), "a.1"), beat, 0.0)
    assert (heard.save_every, heard.by_advice) == arrives


@pytest.mark.parametrize("given", [timedelta(0), timedelta(days=400), 600, "10m", holdfast.young_daly, "young_daly"])
def test_what_is_none_is_refused(given: Any) -> None:
    """What is no interval is refused, and the error tells what is one. Guards against the function itself, without a
    call, and seconds that are taken for minutes."""
    with pytest.raises(InvalidRequest, match=r"save_every is .* datetime.timedelta .* holdfast.young_daly\(\)"):
        CHECK("save_every", given)
