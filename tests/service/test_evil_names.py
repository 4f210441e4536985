"""Calls whose every text takes over a terminal: the coordinator's log and its answers stay lines of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from holdfast.cli.output import as_document
from holdfast_coordinator.driver import Refused
from holdfast_coordinator.refusals import NotAdmitted, NotNow, abort
from holdfast_protos.conventions import FAILURE_TRAILER
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.errors import HoldfastError, Kind
from holdfast_storage.failure import Failure
from holdfast_storage.failure_message import decode
from holdfast_storage.store import open_store
from support.coordinators import StartCoordinator
from support.evil import EVIL, LINE, faults
from support.light_worker import World, all_join, outcomes, together

NAME = EVIL.replace("/", "|").replace("[", "(").replace("]", ")")  # as a folder may be called


def said(call: Callable[[], object]) -> Iterator[str]:
    """The texts of a refusal: gRPC's details, and the failure as our own clients read it, if there is one."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    yield raised.value.details()  # type: ignore[attr-defined]
    for name, value in raised.value.trailing_metadata():  # type: ignore[attr-defined]
        if name == FAILURE_TRAILER:
            failure = decode(pb.Failure.FromString(value))
            yield from (failure.message, str(failure.to_error()))


def evil(message: Any) -> Any:
    """Set every text of a message that is empty."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None:
            evil(value.add() if hasattr(value, "add") else value)
        elif field.type == field.TYPE_STRING and not value:
            value.append(EVIL) if hasattr(value, "append") else setattr(message, field.name, EVIL)
    return message


def test_a_run_with_an_evil_name(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run whose name forges a line, and a worker whose phase does, are named in lines of our own, in the logs of both
    sides, in errors and in what others are told. Guards against a log in which somebody else has written."""
    with caplog.at_level(logging.DEBUG, "holdfast"):
        first, second = world(2, store=open_store(tmp_path / NAME), save_timeout=3.0)
        all_join([first, second])
        assert outcomes([worker.save(1) for worker in (first, second)]) == [None, None]
        second.session.progress(EVIL, 2)
        failure = pb.Failure(kind="storage", message=EVIL, phase=EVIL, object=EVIL, workers=["worker-1"])
        save = first.save(2)
        second.session.fail(pb.FailRequest(ordinal=2, failure=failure), 9.0)
        (error,) = outcomes([save])
        missing = together([lambda worker=worker: worker.restore(f"7{EVIL}") for worker in (first, second)])  # type: ignore[misc]
        told = as_document(first.status())
    assert "OWNED" in str(error)
    assert all(isinstance(each, HoldfastError) for each in missing)
    assert not faults(" ".join(map(str, [error, *missing])))
    assert "OWNED" in told["run"]["last_save"]["failure"]["message"]
    assert not faults(told["run"]["last_save"]["failure"]["message"])
    lines = [caplog.handler.format(record) for record in caplog.records if record.name.startswith("holdfast")]
    assert [line for line in lines if "OWNED" in line]
    assert not [line for line in lines if faults(line) or "\n" in line]


@pytest.mark.parametrize(
    "call", ["Join", "Vote", "Report", "Fail", "Restore", "Examined", "AwaitUpkeep", "Leave", "Status"]
)
@pytest.mark.parametrize("task", [EVIL, "worker-0"], ids=["task", "run"])
def test_a_refusal(start: StartCoordinator, caplog: pytest.LogCaptureFixture, call: str, task: str) -> None:
    """A refusal repeats what was wrong in visible characters. Guards against an error that reaches the terminal of
    whoever reads another worker's log."""
    request = evil((pb.ReportChunk if call == "Report" else getattr(pb, f"{call}Request"))())
    texts: list[str] = []
    with caplog.at_level(logging.DEBUG, "holdfast.coordinator"), start(insecure=True).stub() as stub:
        for run in (EVIL, f"/{EVIL}", f"s3://{EVIL}", f"nosuch://{EVIL}"):
            if call == "Status":
                request.run = run
            else:
                caller = request.head.caller if call == "Report" else request.caller
                caller.run, caller.task = run, task
            texts += said(lambda: getattr(stub, call)(iter([request]) if call == "Report" else request, timeout=9.0))
    assert not [text for text in texts if faults(text) or "\n" in text]
    assert not [record for record in caplog.records if LINE in caplog.handler.format(record).split("\n")]


@pytest.mark.parametrize("refusal", [NotAdmitted(EVIL), NotNow(EVIL), Refused(Failure(Kind.ERROR, EVIL))])
def test_a_refusal_before_the_call_is_read(refusal: Exception) -> None:
    """Nor does the refusal of a call that carries no proof. Guards against the run in its metadata."""
    told: list[str] = []

    class Context:
        async def abort(self, code: object, details: str, trailer: object) -> None:
            told.append(details)

    with suppress(AssertionError):
        asyncio.run(abort(refusal, Context()))
    assert told
    assert not faults(told[0])
