"""Translates between the protocol's messages and the core's values. Makes no decisions."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf.message import DecodeError

from holdfast_protos.conventions import LARGEST_SPECS, LONGEST_REASON, MOST_SPECS
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.cluster import LISTED, Cluster, Task
from holdfast_storage.decision import LONGEST_GRACE, Decision
from holdfast_storage.decision import LONGEST_REASON as LONGEST_WISH
from holdfast_storage.errors import InvalidRequest, Kind
from holdfast_storage.failure import Failure
from holdfast_storage.failure_message import encode

from .core import agreement as ag
from .core import effects as fx
from .core import events as ev
from .core import messages as v
from .core import rules
from .core.rules import Policy, Rule

LONGEST_PHASE = 32
LONGEST_OBJECT = 4_096

MOST = 1 << 62
"""The largest number of a request or a boundary that is believed."""

LONGEST_VERDICT = 12_000
"""The characters of a worker's reason for its verdict on a checkpoint. An error tells those of several workers."""

STATUS_OF_KIND = {
    Kind.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.STORAGE: grpc.StatusCode.INTERNAL,
    Kind.CHECKPOINT_DAMAGED: grpc.StatusCode.DATA_LOSS,
    Kind.COORDINATOR_UNAVAILABLE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Kind.SUPERSEDED: grpc.StatusCode.ABORTED,
    Kind.SAVE_FAILED: grpc.StatusCode.ABORTED,
    Kind.REPLICA_DIVERGENCE: grpc.StatusCode.FAILED_PRECONDITION,
    Kind.UNKNOWN_GENERATION: grpc.StatusCode.NOT_FOUND,
}


def caller(message: pb.Caller) -> v.Caller:
    return v.Caller(message.generation, Task.parse(message.task), message.incarnation)


def cluster(message: Iterable[pb.ClusterJob]) -> Cluster:
    return tuple(sorted((job.type, tuple(job.addresses)) for job in message))


def members(message: Iterable[pb.Member]) -> tuple[tuple[Task, str], ...]:
    return tuple(sorted((Task.parse(m.task), m.incarnation) for m in message))


def failure(message: pb.Failure) -> Failure:
    """Decode the failure of a worker's part, without what only the coordinator can know."""
    kind = Kind.STORAGE if message.kind == Kind.STORAGE.value else Kind.SAVE_FAILED
    object_ = message.object[:LONGEST_OBJECT]
    return Failure(kind, message.message[:LONGEST_REASON], message.phase[:LONGEST_PHASE], object=object_)


def heartbeat(caller: v.Caller, message: pb.Heartbeat, now: float) -> ev.Heartbeat:
    """Decode a heartbeat. Most of it is only shown to people. The caller is the stream's, not the message's.

    now: monotonic.
    """
    step, done, total = (max(0, number) for number in (message.step, message.bytes_done, message.bytes_total))
    decided, promised, limit = (min(max(0, n), MOST) for n in (message.decided, message.promised, message.limit))
    word = ag.Word(decided, promised, limit, wish(message.wish, now) if message.HasField("wish") else None)
    phase, every = message.phase[:LONGEST_PHASE], _seconds(message.save_every_s)
    return ev.Heartbeat(caller, phase, step, done, total, word, every, message.young_daly)


def wish(message: pb.Wish, now: float) -> ag.Wish:
    seconds = _seconds(message.seconds)
    return ag.Wish(message.reason[:LONGEST_WISH], message.exits, now + seconds if seconds else None)


def decision_message(d: Decision) -> pb.Decision:
    message = pb.Decision(number=d.number, verb=d.verb, boundary=d.boundary, exits=d.exits)
    message.reason, message.seconds = d.reason, d.seconds
    return message


def _seconds(value: float) -> float:
    return min(value, LONGEST_GRACE) if value > 0 else 0.0  # which NaN is not


def restore(request: v.RequestId, caller: v.Caller, message: pb.RestoreRequest) -> ev.Restore:
    m = message
    reason = m.reason[:LONGEST_VERDICT]
    return ev.Restore(request, caller, m.ordinal, m.target, m.prefix, m.verdict, reason, m.timeout_s, m.entries)


def question(asked: fx.AskToRead) -> pb.Notice.ReadBack:
    r = asked.record
    return pb.Notice.ReadBack(prefix=r.prefix, manifest_crc32c=r.manifest_crc32c, base=r.base, objects=asked.objects)


def examined(caller: v.Caller, message: pb.ExaminedRequest) -> ev.Examined:
    """Decode what a worker has read. `checks` knows its verdict."""
    m = message
    return ev.Examined(caller, m.prefix, tuple(m.good), m.verdict, m.reason[:LONGEST_VERDICT])  # type: ignore[arg-type]


def policy(message: pb.Retention) -> Policy:
    return tuple(map(_rule, message.any_of))


def _rule(message: pb.Retention.Rule) -> Rule:
    match message.WhichOneof("rule"):
        case "newest":
            return rules.Newest(message.newest)
        case "best":
            return rules.Best(message.best.count, message.best.metric, "max" if message.best.mode == "max" else "min")
        case "newer_than_s":
            return rules.NewerThan(message.newer_than_s)
        case "every_s":
            return rules.Every(message.every_s)
        case _:
            return rules.EverySteps(message.every_steps)


def ballot(message: pb.VoteRequest) -> v.Ballot:
    return v.Ballot(
        step=message.step,
        checkpoint_name=message.checkpoint_name,
        spec_digest=message.spec_digest,
        crcs=message.crcs,
        guarded=message.guarded,
        on_divergence=message.on_divergence,
        takeover=message.takeover,
        timeout=message.timeout_s,
        specs=specs(message.specs),
        base=message.base,
    )


def specs(message: bytes) -> tuple[v.TensorSpec, ...]:
    """Decode the specs of a vote. Raises InvalidRequest."""
    if len(message) > LARGEST_SPECS:
        raise InvalidRequest(f"the specs of a vote have {len(message):,} bytes; at most {LARGEST_SPECS:,} are possible")
    try:
        found = pb.TensorSpecs.FromString(message).specs
    except DecodeError as error:
        raise InvalidRequest(f"the specs of a vote cannot be decoded: {error}") from error
    if len(found) > MOST_SPECS:
        raise InvalidRequest(f"a vote has {len(found):,} specs; at most {MOST_SPECS:,} are possible")
    return tuple(v.TensorSpec(s.key, s.dtype, tuple(s.shape)) for s in found)


def report(head: pb.ReportHead, payload: object) -> v.SaveReport:
    cost = head.cost_before_s if head.HasField("cost_before_s") else None
    terms = head.timeout_s, policy(head.retention), cost
    return v.SaveReport(head.step, head.checkpoint_name, tuple(head.worker_local), payload, *terms, head.base)


def vote_reply(answer: v.Answer) -> pb.VoteReply:
    match answer:
        case v.Go(worker_local, warned, log_entry, full):
            divergences = [pb.Divergence(position=d.position, tasks=map(str, d.tasks[:LISTED])) for d in warned]
            go = pb.VoteReply.Go(worker_local=worker_local, warned=divergences, log_entry=log_entry, full=full)
            return pb.VoteReply(go=go)
        case v.SpecsWanted():
            return pb.VoteReply(specs_wanted=pb.VoteReply.SpecsWanted())
        case _:
            return pb.VoteReply(decided=outcome_message(answer))


def outcome_message(answer: v.Answer) -> pb.SaveOutcome:
    assert isinstance(answer, v.SaveOutcome)
    message = pb.SaveOutcome(ordinal=answer.ordinal, committed=answer.committed)
    if answer.failure:
        message.failure.CopyFrom(encode(answer.failure))
    return message


def join_reply(answer: v.Answer, coordinator: str, *, to_chief: bool) -> pb.JoinReply:
    if isinstance(answer, v.Waiting):
        listed = answer.tasks[:LISTED]
        more = len(answer.tasks) - len(listed)
        return pb.JoinReply(coordinator=coordinator, waiting_for=map(str, listed), waiting_for_more=more)
    assert isinstance(answer, v.Joined)
    members = answer.members if to_chief else ()
    return pb.JoinReply(
        coordinator=coordinator,
        generation=answer.generation,
        members=[pb.Member(task=str(task), incarnation=incarnation) for task, incarnation in members],
        fork_point=answer.fork_point,
        entries=answer.entries,
    )


def restore_reply(answer: v.Answer) -> pb.RestoreReply:
    assert isinstance(answer, v.Read | v.Apply)
    reply, record = pb.RestoreReply(action=pb.RestoreReply.NONE), answer.record
    if record:
        reply.action = pb.RestoreReply.READ if isinstance(answer, v.Read) else pb.RestoreReply.APPLY
        reply.prefix, reply.step, reply.stock = record.prefix, record.step, record.stock
        reply.manifest_crc32c = record.manifest_crc32c
    if isinstance(answer, v.Apply):
        reply.fork_point = answer.fork_point
        reply.passed_over.extend(answer.passed_over)
    return reply
