"""The calls of the protocol, from message to message: decode, submit, encode."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable

from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.cluster import Cluster, chief_of
from holdfast_storage.errors import Kind
from holdfast_storage.failure import Failure
from holdfast_storage.failure_message import encode

from . import checks, wire
from .core import effects as fx
from .core import events as ev
from .core.membership import POLL
from .core.messages import Answer, Caller, Joined, RequestId, SaveReport, Waiting
from .door import ADMITTED
from .driver import Driver, Refused
from .finalize import Payload
from .served_runs import ServedRuns
from .status import status


class Calls:
    """The coordinator's calls. Each may raise Refused, or InvalidRequest if it is not as `checks` wants it."""

    def __init__(self, runs: ServedRuns) -> None:
        self._runs = runs

    async def join(self, request: pb.JoinRequest) -> pb.JoinReply:
        checks.check_join(request)
        ADMITTED.get().check(request.caller)
        run = await self._runs.get(request.caller.run)
        with run.visited():
            return await self._joined(run, request)

    async def _joined(self, run: Driver, request: pb.JoinRequest) -> pb.JoinReply:
        if request.cluster:
            run.clusters.learn(request.cluster_digest, wire.cluster(request.cluster))
        cluster = await run.clusters.find(request.cluster_digest)
        if cluster is None:
            return pb.JoinReply(coordinator=self._runs.leader.id, cluster_wanted=True)
        caller = wire.caller(request.caller)
        if caller.generation:
            answer = await self._rejoin(run, request, caller, cluster)
        else:
            fresh = secrets.token_hex(4)
            answer = await run.ask(
                lambda r: ev.Join(r, caller.task, caller.incarnation, cluster, fresh, request.timeout_s)
            )
        is_chief = caller.task == chief_of(cluster)
        if isinstance(answer, Joined) and not is_chief:
            end = time.monotonic() + POLL
            while (chief := run.machine.awaited_chief(answer.generation)) and time.monotonic() < end:
                await run.await_chief(end - time.monotonic())
            if chief:
                answer = Waiting((chief,))
        return wire.join_reply(answer, self._runs.leader.id, to_chief=is_chief)

    async def _rejoin(self, run: Driver, request: pb.JoinRequest, caller: Caller, cluster: Cluster) -> Answer:
        checks.check_members(request, cluster)
        members = wire.members(request.members)
        known = members, request.fork_point, request.restored, request.restores
        answer = await run.ask(lambda r: ev.Rejoin(r, caller, cluster, *known))
        if members:
            run.chief_came()
        elif isinstance(answer, Waiting):
            if not run.machine.knows(caller):
                await run.await_chief(POLL)
            answer = await run.ask(lambda r: ev.Rejoin(r, caller, cluster, *known))
        return answer

    async def attend(self, beats: AsyncIterable[pb.Heartbeat]) -> AsyncGenerator[pb.Notice, None]:
        """Keep a worker present from its first heartbeat until the stream ends, and yield notices for it."""
        iterator = aiter(beats)
        first = await anext(iterator, None)
        if first is None:
            return
        checks.check_caller(first.caller)
        run = self._run(first.caller)
        caller = wire.caller(first.caller)
        if run.machine.awaits(caller):
            raise Refused(Failure(Kind.UNKNOWN_GENERATION, f"generation {caller.generation} is not known here"))
        notices: asyncio.Queue[pb.Notice | None] = asyncio.Queue()

        async def listen() -> None:
            try:
                async for beat in iterator:
                    run.tell(wire.heartbeat(caller, beat))
            finally:
                notices.put_nowait(None)

        with run.attended(caller, lambda notify: notices.put_nowait(_notice(notify))):
            run.tell(wire.heartbeat(caller, first))
            if run.machine.is_chief(caller):
                run.chief_came()
            listener = asyncio.create_task(listen())
            try:
                while (notice := await notices.get()) is not None:
                    yield notice
            finally:
                listener.cancel()
                await asyncio.gather(listener, return_exceptions=True)

    async def vote(self, request: pb.VoteRequest) -> pb.VoteReply:
        checks.check_vote(request)
        ballot = wire.ballot(request)
        answer = await self._ask(request.caller, lambda r, caller: ev.Vote(r, caller, request.ordinal, ballot))
        return wire.vote_reply(answer)

    async def report(self, chunks: AsyncIterable[pb.ReportChunk]) -> pb.SaveOutcome:
        head, payload = pb.ReportHead(), Payload(0)
        async for chunk in chunks:
            if chunk.HasField("head"):
                head = chunk.head
            payload.objects.extend(chunk.objects)
            payload.entries.extend(chunk.entries)
        payload.num_shards, payload.description = head.num_shards, head.description_json
        checks.check_report(head, payload.objects)
        report = SaveReport(
            head.step,
            head.checkpoint_name,
            tuple(head.worker_local),
            payload,
            head.timeout_s,
            wire.retention(head.retention),
        )
        answer = await self._ask(head.caller, lambda r, caller: ev.Reported(r, caller, head.ordinal, report))
        return wire.outcome_message(answer)

    async def fail(self, request: pb.FailRequest) -> pb.SaveOutcome:
        checks.check_fail(request)
        failure = wire.failure(request.failure)
        answer = await self._ask(request.caller, lambda r, caller: ev.GaveUp(r, caller, request.ordinal, failure))
        return wire.outcome_message(answer)

    async def restore(self, request: pb.RestoreRequest) -> pb.RestoreReply:
        checks.check_restore(request)
        q = request
        answer = await self._ask(
            q.caller,
            lambda r, caller: ev.Restore(
                r, caller, q.ordinal, q.target, q.prefix, q.verdict, q.reason, q.timeout_s, q.entries
            ),
        )
        return wire.restore_reply(answer)

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
        return await run.ask(lambda request: event(request, who))

    def _run(self, caller: pb.Caller) -> Driver:
        """Return the driver of the caller's run. Only a join opens a run."""
        ADMITTED.get().check(caller)
        run = self._runs.find(caller.run)
        if run is None:
            raise Refused(Failure(Kind.UNKNOWN_GENERATION, f"no worker of {caller.run} has joined here"))
        return run

    async def status(self, request: pb.StatusRequest) -> pb.StatusReply:
        ADMITTED.get().check_run(request.run)
        if not request.run:
            return pb.StatusReply(coordinator=self._runs.leader.id, runs=self._runs.urls)
        run = self._runs.find(request.run)
        if run is None:
            raise Refused(Failure(Kind.INVALID_REQUEST, f"no worker of {request.run} has called here"))
        told = status(run.machine, run.store.url, self._runs.leader, time.monotonic())
        if request.reason_only:
            told.ClearField("run")
        return told


def _notice(notify: fx.Notify) -> pb.Notice:
    failure = encode(notify.failure)
    if notify.ordinal is None:
        return pb.Notice(superseded=failure)
    return pb.Notice(aborted=pb.Notice.Aborted(ordinal=notify.ordinal, failure=failure))
