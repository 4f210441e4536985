"""A coordinator that says whatever a test wants it to say, in the place of a link to a real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import holdfast.session.session
from holdfast_protos.v1 import coordinator_pb2 as pb

ADDRESS = "liar:1"
GENERATION = "0123abcd"


class LyingCoordinator:
    """Answers each call by the message, or the function of the request, that `says` has for it, and else as a
    coordinator of a new and empty run would.

    heard: what workers have sent, in order.
    """

    def __init__(self, **says: Any) -> None:
        self.says = says
        self.heard: list[Any] = []

    def installed(self, monkeypatch: pytest.MonkeyPatch) -> LyingCoordinator:
        monkeypatch.setattr(holdfast.session.session, "Link", lambda *_, **__: _Link(self))
        return self

    def sent(self, kind: type[Any]) -> list[Any]:
        return [each for each in self.heard if isinstance(each, kind)]

    def answer(self, call: str, request: Any, usual: Callable[[], Any]) -> Any:
        copy = type(request)()
        copy.CopyFrom(request)
        self.heard.append(copy)
        said = self.says.get(call)
        if said is None:
            return usual()
        return said(request) if callable(said) else said


class _Link:
    def __init__(self, liar: LyingCoordinator) -> None:
        self.address = ADDRESS
        self.broken = False
        self._liar = liar

    def join(self, request: pb.JoinRequest, timeout: float) -> pb.JoinReply:
        caller = request.caller
        members = [pb.Member(task=caller.task, incarnation=caller.incarnation)]
        usual = pb.JoinReply(generation=GENERATION, members=members, coordinator="liar", fork_point="/")
        return self._liar.answer("join", request, lambda: usual)

    def vote(self, request: pb.VoteRequest, timeout: float) -> pb.VoteReply:
        return self._liar.answer("vote", request, lambda: pb.VoteReply(go=pb.VoteReply.Go(log_entry=0)))

    def report(self, chunks: list[pb.ReportChunk], timeout: float) -> pb.SaveOutcome:
        return self._liar.answer("report", chunks[0].head, lambda: committed(chunks[0].head))

    def fail(self, request: pb.FailRequest, timeout: float) -> pb.SaveOutcome:
        return self._liar.answer("fail", request, lambda: pb.SaveOutcome(ordinal=request.ordinal, failure=FAILED))

    def restore(self, request: pb.RestoreRequest, timeout: float) -> pb.RestoreReply:
        return self._liar.answer("restore", request, lambda: pb.RestoreReply(fork_point="/"))

    def examined(self, request: pb.ExaminedRequest, timeout: float) -> pb.ExaminedReply:
        return self._liar.answer("examined", request, pb.ExaminedReply)

    def await_upkeep(self, request: pb.AwaitUpkeepRequest, timeout: float) -> pb.AwaitUpkeepReply:
        return pb.AwaitUpkeepReply()

    def leave(self, request: pb.LeaveRequest, timeout: float) -> pb.LeaveReply:
        return pb.LeaveReply()

    def status(self, request: pb.StatusRequest, timeout: float) -> pb.StatusReply:
        return pb.StatusReply(reason="nothing")

    def attend(self, beats: Iterator[pb.Heartbeat]) -> Iterator[pb.Notice]:
        for _ in beats:
            yield from self._liar.says.get("notices", ())

    def close(self) -> None:
        pass


FAILED = pb.Failure(kind="save_failed", message="as you say")


def committed(request: Any) -> pb.SaveOutcome:
    """The answer that a save was committed."""
    return pb.SaveOutcome(ordinal=request.ordinal, committed=True)


def read(prefix: str, **fields: Any) -> pb.RestoreReply:
    return pb.RestoreReply(action=pb.RestoreReply.READ, prefix=prefix, **fields)


def apply(prefix: str, **fields: Any) -> pb.RestoreReply:
    return pb.RestoreReply(action=pb.RestoreReply.APPLY, prefix=prefix, **fields)
