"""A Failure on the wire, as workers and coordinator read and write it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from holdfast_protos.conventions import LONGEST_REASON
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.cluster import Task
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.printable import printable
from holdfast_storage.scrub import scrubbed


def encode(failure: Failure) -> pb.Failure:
    """What is told to others is printable, and holds no secret that this process knows."""
    return pb.Failure(
        kind=failure.kind.value,
        message=printable(scrubbed(failure.message), LONGEST_REASON),
        phase=failure.phase,
        workers=map(str, failure.tasks),
        object=failure.object,
        positions=failure.positions,
        ahead=map(str, failure.ahead),
    )


def decode(message: pb.Failure) -> Failure:
    """A kind that this version does not know is an error of no particular kind. A name that is no task's is left out:
    a failure that is told wrongly is a failure all the same."""
    known = {kind.value: kind for kind in Kind}
    return Failure(
        known.get(message.kind, Kind.ERROR),
        message.message[:LONGEST_REASON],
        message.phase,
        _tasks(message.workers),
        message.object,
        tuple(message.positions),
        _tasks(message.ahead),
    )


def _tasks(names: Iterable[str]) -> tuple[Task, ...]:
    tasks = []
    for name in names:
        with suppress(ValueError):
            tasks.append(Task.parse(name))
    return tuple(tasks)
