"""The calls of the protocol, from message to message: decode, submit, encode."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from typing import TypeVar

from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.cluster import Cluster, Task, chief_of
from holdfast_storage.errors import InvalidRequest, Kind
from holdfast_storage.failure import Failure
from holdfast_storage.failure_message import encode

from . import checks, wire
from .core import effects as fx
from .core import events as ev
from .core.membership import POLL
from .core.messages import Agreed, Answer, Caller, Joined, RequestId, Waiting
from .door import ADMITTED
from .driver import Driver, Notice, Notices, Refused
from .reports import received
from .served_runs import ServedRuns
from .status import status

FIRST_WORD = 10.0
"""Seconds within which a stream says who calls."""

BEATS_APART = 0.02
"""Seconds between two heartbeats of a stream that are listened to."""

OPERATOR = Caller("", Task("operator", 0), "")
"""Who calls and is no worker."""

REPORT_WITHIN = 120.0
"""Seconds within which a report has been sent."""

T = TypeVar("T")


class Calls:
    """The coordinator's calls. Each may raise Refused, or InvalidRequest if it is not as `checks` wants it."""

    def __init__(self, runs: ServedRuns) -> None:
        self._runs = runs

    async def join(self, request: pb.JoinRequest) -> pb.JoinReply:
        checks.check_join(request)
        ADMITTED.get().check(request.caller)
        run = await self._runs.get(request.caller.run)
        ADMITTED.get().check_directory(run.store.url)
        with run.visited():
            return await self._joined(run, request)

    async def _joined(self, run: Driver, request: pb.JoinRequest) -> pb.JoinReply:
        if request.cluster:
            run.clusters.learn(request.cluster_digest, wire.cluster(request.cluster))
        cluster = await run.clusters.find(request.cluster_digest)
        if cluster is None:
            return pb.JoinReply(coordinator=self._runs.leader.id, cluster_wanted=True)
        caller = wire.caller(request.caller)
        is_chief = caller.task == chief_of(cluster)
        if caller.generation:
            answer = await self._rejoin(run, request, caller, cluster)
        else:
            fresh = secrets.token_hex(4)
            answer = await run.ask(
                caller, lambda r: ev.Join(r, caller.task, caller.incarnation, cluster, fresh, request.timeout_s)
            )
            if isinstance(answer, Joined) and not is_chief:
                answer = await self._after_its_chief(run, answer)
        return wire.join_reply(answer, self._runs.leader.id, to_chief=is_chief)

    async def _after_its_chief(self, run: Driver, answer: Joined) -> Answer:
        end = time.monotonic() + POLL
        while (chief := run.machine.awaited_chief(answer.generation)) and time.monotonic() < end:
            await run.await_chief(end - time.monotonic())
        return Waiting((chief,)) if chief else answer

    async def _rejoin(self, run: Driver, request: pb.JoinRequest, caller: Caller, cluster: Cluster) -> Answer:
        checks.check_members(request, cluster)
        members = wire.members(request.members)

        def event(r: RequestId) -> ev.Event:
            return ev.Rejoin(r, caller, cluster, members, request.fork_point, request.restored, request.restores)

        answer = await run.ask(caller, event)
        if members:
            run.chief_came()
        elif isinstance(answer, Waiting):
            if not run.machine.knows(caller):
                await run.await_chief(POLL)
            answer = await run.ask(caller, event)
        return answer

    async def attend(self, beats: AsyncIterable[pb.Heartbeat]) -> AsyncGenerator[pb.Notice, None]:
        """Keep a worker present from its first heartbeat until the stream ends, and yield notices for it."""
        iterator = aiter(beats)
        first = await _within(FIRST_WORD, anext(iterator, None))
        if first is None:
            return
        checks.check_caller(first.caller)
        run, caller = self._known(first.caller), wire.caller(first.caller)
        notices: Notices = asyncio.Queue()

        async def listen() -> None:
            try:
                heard = 0.0
                async for beat in iterator:
                    if (early := heard + BEATS_APART - time.monotonic()) > 0:
                        await asyncio.sleep(early)  # what comes faster waits in the stream, or at the sender
                    heard = time.monotonic()
                    run.tell(wire.heartbeat(caller, beat, heard))
            finally:
                notices.put_nowait(None)

        with run.attended(caller, notices):
            run.tell(wire.heartbeat(caller, first, time.monotonic()))
            if run.machine.is_chief(caller):
                run.chief_came()
            listener = asyncio.create_task(listen())
            try:
                while (notify := await notices.get()) is not None:
                    yield _notice(notify)
            finally:
                listener.cancel()
                await asyncio.gather(listener, return_exceptions=True)

    async def vote(self, request: pb.VoteRequest) -> pb.VoteReply:
        checks.check_vote(request)
        ballot = wire.ballot(request)
        answer = await self._ask(request.caller, lambda r, caller: ev.Vote(r, caller, request.ordinal, ballot))
        return wire.vote_reply(answer)

    async def report(self, chunks: AsyncIterable[pb.ReportChunk]) -> pb.SaveOutcome:
        iterator = aiter(chunks)
        first = await _within(FIRST_WORD, anext(iterator, pb.ReportChunk()))
        checks.check_report(head := first.head)
        with self._known(head.caller).holding(head.bytes):
            report = wire.report(head, await _within(REPORT_WITHIN, received(first, iterator)))
            answer = await self._ask(head.caller, lambda r, caller: ev.Reported(r, caller, head.ordinal, report))
        return wire.outcome_message(answer)

    async def fail(self, request: pb.FailRequest) -> pb.SaveOutcome:
        checks.check_fail(request)
        failure = wire.failure(request.failure)
        answer = await self._ask(request.caller, lambda r, caller: ev.GaveUp(r, caller, request.ordinal, failure))
        return wire.outcome_message(answer)

    async def restore(self, request: pb.RestoreRequest) -> pb.RestoreReply:
        checks.check_restore(request)
        answer = await self._ask(request.caller, lambda r, caller: wire.restore(r, caller, request))
        return wire.restore_reply(answer)

    async def examined(self, request: pb.ExaminedRequest) -> pb.ExaminedReply:
        checks.check_examined(request)
        self._known(request.caller).tell(wire.examined(wire.caller(request.caller), request))
        return pb.ExaminedReply()

    async def await_upkeep(self, request: pb.AwaitUpkeepRequest) -> pb.AwaitUpkeepReply:
        checks.check_caller(request.caller)
        await self._ask(request.caller, ev.AwaitUpkeep)
        return pb.AwaitUpkeepReply()

    async def leave(self, request: pb.LeaveRequest) -> pb.LeaveReply:
        checks.check_leave(request)
        await self._ask(request.caller, lambda r, caller: ev.Leave(r, caller, request.wait_for_others_s))
        return pb.LeaveReply()

    async def _ask(self, caller: pb.Caller, event: Callable[[RequestId, Caller], ev.Event]) -> Answer:
        """Hand the machine of the caller's run a call, and wait for its answer."""
        run, who = self._run(caller), wire.caller(caller)
        return await run.ask(who, lambda request: event(request, who))

    def _known(self, caller: pb.Caller) -> Driver:
        """Return the driver of the run of a caller whose calls count there."""
        run = self._run(caller)
        if run.machine.awaits(wire.caller(caller)):
            raise Refused(Failure(Kind.UNKNOWN_GENERATION, f"generation {caller.generation} is not known here"))
        return run

    def _run(self, caller: pb.Caller) -> Driver:
        """Return the driver of the caller's run. Only a join opens a run."""
        ADMITTED.get().check(caller)
        run = self._runs.find(caller.run)
        if run is None:
            raise Refused(Failure(Kind.UNKNOWN_GENERATION, f"no worker of {caller.run} has joined here"))
        ADMITTED.get().check_directory(run.store.url)
        return run

    async def request_save(self, request: pb.SaveRequest) -> pb.Decision:
        """Have all workers save. An operator asks, who is no worker: nobody ends, and there is no hurry."""
        checks.check_save_request(request)
        answer = await self._run_of_anybody(request.run).ask(OPERATOR, lambda r: ev.AskSave(r, request.timeout_s))
        assert isinstance(answer, Agreed)
        return wire.decision_message(answer.decision)

    async def status(self, request: pb.StatusRequest) -> pb.StatusReply:
        if not request.run:
            ADMITTED.get().check_run("")
            return pb.StatusReply(coordinator=self._runs.leader.id, runs=self._runs.urls)
        run = self._run_of_anybody(request.run)
        told = status(run.machine, run.store.url, self._runs.leader, time.monotonic())
        if request.reason_only:
            told.ClearField("run")
        return told

    def _run_of_anybody(self, url: str) -> Driver:
        """Return the driver of a run for who need not be one of its workers. Only a join opens a run."""
        ADMITTED.get().check_run(url)
        run = self._runs.find(url)
        if run is None:
            raise Refused(Failure(Kind.INVALID_REQUEST, f"no worker of {url} has called here"))
        ADMITTED.get().check_directory(run.store.url)
        return run


async def _within(seconds: float, awaited: Awaitable[T]) -> T:
    task = asyncio.ensure_future(awaited)
    try:
        # Not `wait_for`, which may swallow a cancellation before Python 3.12.
        if not (await asyncio.wait([task], timeout=seconds))[0]:
            raise InvalidRequest(f"a call did not go on within {seconds:.0f} s")
        return task.result()
    finally:
        task.cancel()


def _notice(notify: Notice) -> pb.Notice:
    if isinstance(notify, fx.AskToRead):
        return pb.Notice(read_back=wire.question(notify))
    if isinstance(notify, fx.Post):
        if isinstance(notify.what, int):
            return pb.Notice(prepare=notify.what)
        return pb.Notice(decision=wire.decision_message(notify.what))
    failure = encode(notify.failure)
    if notify.ordinal is None:
        return pb.Notice(superseded=failure)
    return pb.Notice(aborted=pb.Notice.Aborted(ordinal=notify.ordinal, failure=failure))
