"""Checks of a coordinator's answers before anything is done with them.

A coordinator may be of another version, confused, or somebody else at its address. What it says becomes names of
objects, positions in lists and errors of the training program. So an answer that cannot be right is refused here, in
one error that names the coordinator. What can be right and yet a lie is checked against storage, where it is used: see
docs/design/017-who-may-say-what.md.

All checks raise Disbelieved.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise

from holdfast.session.this_task import ThisTask
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.errors import InvalidRequest


class Disbelieved(InvalidRequest):
    """A coordinator's answer that cannot be right."""

    def __init__(self, address: str, what: str) -> None:
        """what: goes on after "the coordinator at ... answers"."""
        super().__init__(
            f"the coordinator at {address} answers {what}: nothing that it says is believed. Check that it is the one "
            "of this job, on the same storage, and of the same version of Holdfast"
        )


_GENERATION = re.compile(r"[0-9a-f]{8}")
_LONGEST_NAME = 4096


def check_joined(address: str, request: pb.JoinRequest, reply: pb.JoinReply, this_task: ThisTask) -> None:
    """Check what a complete world is called, since the names of its checkpoints are made of it, and its members."""
    if not _GENERATION.fullmatch(reply.generation):
        raise Disbelieved(address, f"the generation {reply.generation!r:.40}, and not eight hexadecimal digits")
    if request.caller.generation not in ("", reply.generation):
        raise Disbelieved(address, f"generation {reply.generation} to a worker of {request.caller.generation}")
    members = {member.task: member.incarnation for member in reply.members}
    mine = members.get(request.caller.task) == request.caller.incarnation
    if members and not (mine and members.keys() == {str(task) for task in this_task.tasks}):
        raise Disbelieved(address, "a world whose members are not the workers of this job")
    if reply.entries < 0:
        raise Disbelieved(address, f"a log of {reply.entries} entries")
    _check_name(address, "fork point", reply.fork_point)


def check_vote(address: str, request: pb.VoteRequest, reply: pb.VoteReply, this_task: ThisTask) -> None:
    """Check the verdict on a save: positions of its tensors, and tasks of its world."""
    verdict = reply.WhichOneof("verdict")
    if verdict == "decided":
        check_outcome(address, request.ordinal, reply.decided)
    elif verdict == "specs_wanted" and request.specs:
        raise Disbelieved(address, "that it wants the tensors' specs, which it has got")
    elif verdict == "go":
        go, guarded = reply.go, request.guarded
        warned = [divergence.position for divergence in go.warned]
        _check_positions(address, "worker-local", go.worker_local, len(guarded))
        _check_positions(address, "divergent", sorted(warned), len(guarded))
        if any(guarded[position] for position in go.worker_local):
            raise Disbelieved(address, "that a tensor is worker-local that must be equal on all workers")
        if not all(guarded[position] for position in warned) or (warned and request.on_divergence != "warn"):
            raise Disbelieved(address, "that a save goes on although tensors differ which must not")
        _check_tasks(address, {task for divergence in go.warned for task in divergence.tasks}, this_task)
        if go.log_entry < 0:
            raise Disbelieved(address, f"log entry {go.log_entry}")
    elif verdict is None:
        raise Disbelieved(address, "no verdict")


def check_outcome(address: str, ordinal: int, outcome: pb.SaveOutcome) -> None:
    """Check that an outcome is that of the save that was asked about, and is one of the two that there are."""
    if outcome.ordinal != ordinal:
        raise Disbelieved(address, f"the outcome of save {outcome.ordinal} to a question about save {ordinal}")
    if outcome.committed == outcome.HasField("failure"):
        raise Disbelieved(address, f"that save {ordinal} was committed and failed, or neither")


def check_restore(address: str, reply: pb.RestoreReply) -> None:
    """Check the form of a proposal or decision. Whether it can be believed is a matter of the storage."""
    if reply.action not in pb.RestoreReply.Action.values():
        raise Disbelieved(address, f"action {reply.action}")
    if (reply.action == pb.RestoreReply.NONE) != (reply.prefix == ""):
        raise Disbelieved(address, "a checkpoint without a name, or a name without a checkpoint")
    _check_name(address, "checkpoint", reply.prefix)
    _check_name(address, "fork point", reply.fork_point)


def _check_positions(address: str, kind: str, positions: Sequence[int], count: int) -> None:
    ascending = all(before < after for before, after in pairwise(positions))
    if not ascending or (positions and not 0 <= positions[0] <= positions[-1] < count):
        raise Disbelieved(address, f"{kind} positions that are not those of {count} tensors, in order, each once")


def _check_tasks(address: str, tasks: Collection[str], this_task: ThisTask) -> None:
    unknown = set(tasks) - {str(task) for task in this_task.tasks}
    if unknown:
        raise Disbelieved(address, f"{min(unknown)!r:.40} as a worker of this job")


def _check_name(address: str, what: str, name: str) -> None:
    if len(name) > _LONGEST_NAME:
        raise Disbelieved(address, f"a {what} of {len(name):,} characters")
