"""Calls whose every text takes over a terminal: the coordinator's log and its answers stay lines of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from holdfast.cli.output import as_document
from holdfast_protos.conventions import FAILURE_TRAILER
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.errors import HoldfastError
from holdfast_storage.failure_message import decode
from holdfast_storage.store import open_store
from support.coordinators import Coordinator
from support.evil import EVIL, LINE, faults
from support.light_worker import World, all_join, outcomes, together

NAME = EVIL.replace("/", "|").replace("[", "(").replace("]", ")")  # as a folder may be called


def said(call: Callable[[], object]) -> list[str]:
    """The texts of a refusal: gRPC's details, and the failure as our own clients read it."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    trailers = dict(raised.value.trailing_metadata())  # type: ignore[attr-defined]
    failure = decode(pb.Failure.FromString(trailers[FAILURE_TRAILER]))
    return [raised.value.details(), failure.message, str(failure.to_error())]  # type: ignore[attr-defined]


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


@pytest.mark.parametrize("run", ["", "/", "s3://", "nosuch://"])
@pytest.mark.parametrize("call", ["Join", "Vote", "Report", "Fail", "Restore", "AwaitUpkeep", "Leave", "Status"])
def test_a_refusal(coordinator: Coordinator, caplog: pytest.LogCaptureFixture, call: str, run: str) -> None:
    """A refusal repeats what was wrong in visible characters. Guards against an error that reaches the terminal of
    whoever reads another worker's log."""
    kind = {"Report": pb.ReportChunk}.get(call) or getattr(pb, f"{call}Request")
    request = evil(kind())
    texts: list[str] = []
    with caplog.at_level(logging.DEBUG, "holdfast.coordinator"), coordinator.stub() as stub:
        for task in (EVIL, "worker-0"):
            if call == "Status":
                request.run = f"{run}{EVIL}"
            else:
                request_caller = request.head.caller if call == "Report" else request.caller
                request_caller.run, request_caller.task = f"{run}{EVIL}", task
            texts += said(lambda: getattr(stub, call)(iter([request]) if call == "Report" else request, timeout=9.0))
    assert not [text for text in texts if faults(text) or "\n" in text]
    assert not [record for record in caplog.records if LINE in caplog.handler.format(record).split("\n")]
