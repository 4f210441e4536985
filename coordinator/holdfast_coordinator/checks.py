"""Checks of a call before the state machine sees it.

A call that fails them is refused with the names of the worker and the field, and has no effect. It comes from another
version of Holdfast, from a mistake, or from somebody who is not a worker. All checks raise InvalidRequest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from holdfast_protos.conventions import (
    LARGEST_CLUSTER,
    LARGEST_REPORT,
    LONGEST_WAIT,
    MOST_ENTRIES,
    MOST_OBJECTS,
    MOST_RULES,
    MOST_TENSORS,
)
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.cluster import Cluster, Task, chief_of, digest, tasks_of
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.layout import LONGEST_NAME, MANIFEST, check_checkpoint_name, check_relative, parse_prefix

from .core.reading_back import MOST_ASKED

_GENERATION = re.compile(r"[0-9a-f]{8}")
_LONGEST_NAME = 256
_LONGEST_URL = 4_096
_DIGEST_SIZE = 32
_ROLES = ("data", "local", "asset")
_VERDICTS = ("good", "damaged", "absent", "missing", "unreadable")
_FINDINGS = ("good", "damaged", "absent", "unreadable")
_DIVERGENCE = ("refuse", "warn")
_MODES = ("min", "max")


def check_join(request: pb.JoinRequest) -> None:
    who = check_caller(request.caller)
    _check_seconds(who, "timeout_s", request.timeout_s)
    if len(request.cluster_digest) != _DIGEST_SIZE:
        raise _wrong(who, "cluster_digest", f"has {len(request.cluster_digest)} bytes, not {_DIGEST_SIZE}")
    if request.cluster:
        _check_cluster(who, request)
    if request.restores < 0:
        raise _wrong(who, "restores", f"is {request.restores}")
    for field, text in (("fork_point", request.fork_point), ("restored", request.restored)):
        _check_length(who, field, text, _LONGEST_URL)


def check_members(request: pb.JoinRequest, cluster: Cluster) -> None:
    """Check the members that the chief names of a world that the log may not know."""
    who = request.caller.task
    if Task.parse(who) != chief_of(cluster):
        if request.members:
            raise _wrong(who, "members", "are named by a worker that is not the chief")
        return
    if len(request.members) > LARGEST_CLUSTER:
        raise _wrong(who, "members", f"are {len(request.members):,}")
    members = [(_task(m.task), m.incarnation) for m in request.members]
    if sorted(task for task, _ in members) != list(tasks_of(cluster)):
        raise _wrong(who, "members", "are not the tasks of its cluster")
    if (Task.parse(who), request.caller.incarnation) not in members:
        raise _wrong(who, "members", "do not hold this very process")


def check_vote(request: pb.VoteRequest) -> None:
    who = _check_save(request)
    if len(request.guarded) > MOST_TENSORS or len(request.crcs) > 4 * MOST_TENSORS:
        raise _wrong(who, "crcs", f"are of more than {MOST_TENSORS:,} tensors")
    _check_length(who, "spec_digest", request.spec_digest)
    if request.on_divergence not in _DIVERGENCE:
        raise _wrong(who, "on_divergence", f"is {request.on_divergence!r}: it must be one of {', '.join(_DIVERGENCE)}")


def check_report(head: pb.ReportHead) -> None:
    """Check the first message of a report, which says how much follows."""
    who = _check_save(head)
    _check_retention(who, head.retention)
    for field, count, most in (
        ("objects", head.objects, MOST_OBJECTS),
        ("entries", head.entries, MOST_ENTRIES),
        ("bytes", head.bytes, LARGEST_REPORT),
    ):
        if not 0 <= count <= most:
            raise _wrong(who, field, f"says that {count:,} follow, of {most:,} that are possible")
    _check_seconds(who, "cost_before_s", head.cost_before_s)
    if head.num_shards < 1:
        raise _wrong(who, "num_shards", f"is {head.num_shards}")
    if len(head.worker_local) > MOST_TENSORS:
        raise _wrong(who, "worker_local", f"holds {len(head.worker_local):,} positions")
    if any(position < 0 for position in head.worker_local):
        raise _wrong(who, "worker_local", "holds a negative position")


def check_objects(who: str, objects: Iterable[pb.StoredObject]) -> None:
    for each in objects:
        try:
            check_relative(each.name)
        except ValueError as error:
            raise _wrong(who, "objects", f"holds a name that cannot be: {error}") from error
        _check_length(who, "objects", each.name)
        if each.name == MANIFEST or each.role not in _ROLES or each.size < 0:
            raise _wrong(who, "objects", f"holds {each.name!r} of {each.size} bytes as {each.role!r}")


def check_fail(request: pb.FailRequest) -> None:
    _check_ordinal(check_caller(request.caller), request.ordinal)


def check_restore(request: pb.RestoreRequest) -> None:
    who = check_caller(request.caller)
    _check_ordinal(who, request.ordinal)
    _check_seconds(who, "timeout_s", request.timeout_s)
    for field, text in (("target", request.target), ("prefix", request.prefix)):
        _check_length(who, field, text, _LONGEST_URL)
    if request.prefix and request.verdict not in _VERDICTS:
        raise _wrong(who, "verdict", f"is {request.verdict!r}: it must be one of {', '.join(_VERDICTS)}")


def check_examined(request: pb.ExaminedRequest) -> None:
    who = check_caller(request.caller)
    _check_length(who, "prefix", request.prefix, _LONGEST_URL)
    if request.verdict not in _FINDINGS:
        raise _wrong(who, "verdict", f"is {request.verdict!r:.80}: it must be one of {', '.join(_FINDINGS)}")
    if len(request.good) > MOST_ASKED:
        raise _wrong(who, "good", f"names {len(request.good):,} objects; at most {MOST_ASKED:,} are asked for")
    for name in request.good:
        _check_length(who, "good", name)


def check_leave(request: pb.LeaveRequest) -> None:
    _check_seconds(check_caller(request.caller), "wait_for_others_s", request.wait_for_others_s)


def check_save_request(request: pb.SaveRequest) -> None:
    _check_length("an operator", "run", request.run, _LONGEST_URL)
    _check_seconds("an operator", "timeout_s", request.timeout_s)


def check_caller(caller: pb.Caller) -> str:
    """Check the caller, and return the worker's name."""
    who = str(_task(caller.task))
    _check_length(who, "run", caller.run, _LONGEST_URL)
    if not caller.run.startswith("/") and "://" not in caller.run:
        raise _wrong(who, "run", f"is {caller.run!r}: it must be an absolute path or a URL")
    if caller.generation and not _GENERATION.fullmatch(caller.generation):
        raise _wrong(who, "generation", f"is {caller.generation!r}, and not eight hexadecimal digits")
    if not 0 < len(caller.incarnation) <= _LONGEST_NAME:
        raise _wrong(who, "incarnation", f"is {caller.incarnation!r}")
    return who


def _task(name: str) -> Task:
    if len(name) > _LONGEST_NAME:
        raise InvalidRequest(f"somebody sent what no worker sends: a task of {len(name):,} characters", object="task")
    try:
        return Task.parse(name)
    except ValueError as error:
        raise InvalidRequest(f"somebody sent what no worker sends: {error}", object="task") from error


def _check_cluster(who: str, request: pb.JoinRequest) -> None:
    jobs = [job.type for job in request.cluster]
    if len(set(jobs)) < len(jobs):
        raise _wrong(who, "cluster", f"names a job twice: {', '.join(jobs)}")
    count = sum(len(job.addresses) for job in request.cluster)
    if count > LARGEST_CLUSTER:
        raise _wrong(who, "cluster", f"has {count:,} tasks; at most {LARGEST_CLUSTER:,} are possible")
    longest = max((len(name) for job in request.cluster for name in (job.type, *job.addresses)), default=0)
    if longest > _LONGEST_NAME:
        raise _wrong(who, "cluster", f"has a name of {longest} characters")
    cluster: Cluster = tuple(sorted((job.type, tuple(job.addresses)) for job in request.cluster))
    if not tasks_of(cluster):
        raise _wrong(who, "cluster", "has no task that takes part in saves")
    if digest(cluster) != request.cluster_digest:
        raise _wrong(who, "cluster_digest", "is not that of its cluster")


def _check_save(message: pb.VoteRequest | pb.ReportHead) -> str:
    """Check what votes and reports have in common, and return the worker's name."""
    who = check_caller(message.caller)
    _check_ordinal(who, message.ordinal)
    _check_seconds(who, "timeout_s", message.timeout_s)
    if message.step < 0:
        raise _wrong(who, "step", f"is {message.step}")
    _check_length(who, "checkpoint_name", message.checkpoint_name)
    try:
        check_checkpoint_name(message.checkpoint_name)
    except InvalidRequest as error:
        raise _wrong(who, "checkpoint_name", f"cannot be used: {error}") from error
    _check_length(who, "base", message.base, LONGEST_NAME)
    if message.base and parse_prefix(message.base) is None:
        raise _wrong(who, "base", f"is {message.base!r}, which is the prefix of no checkpoint")
    return who


def _check_retention(who: str, retention: pb.Retention) -> None:
    if len(retention.any_of) > MOST_RULES:
        raise _wrong(who, "retention", f"has {len(retention.any_of):,} rules; at most {MOST_RULES} are possible")
    for rule in retention.any_of:
        match rule.WhichOneof("rule"):
            case "newest" | "every_steps" as name:
                _check_count(who, name, getattr(rule, name))
            case "best":
                _check_count(who, "best", rule.best.count)
                if not 0 < len(rule.best.metric) <= _LONGEST_NAME or rule.best.mode not in _MODES:
                    raise _wrong(who, "best", f"is of {rule.best.metric!r:.80} in mode {rule.best.mode!r:.80}")
            case "newer_than_s" | "every_s" as name:
                _check_seconds(who, name, getattr(rule, name))
            case _:
                raise _wrong(who, "retention", "has a rule that is not known here")


def _check_count(who: str, field: str, count: int) -> None:
    if count < 1:
        raise _wrong(who, field, f"is {count}: it must be positive")


def _check_ordinal(who: str, ordinal: int) -> None:
    if ordinal < 1:
        raise _wrong(who, "ordinal", f"is {ordinal}: calls are counted from 1")


def _check_seconds(who: str, field: str, value: float) -> None:
    if not 0 <= value <= LONGEST_WAIT:  # which NaN is not
        raise _wrong(who, field, f"is {value}: it must be from 0 to {LONGEST_WAIT:.0f}")


def _check_length(who: str, field: str, text: str | bytes, most: int = _LONGEST_NAME) -> None:
    if len(text) > most:
        raise _wrong(who, field, f"holds {len(text):,} characters; at most {most:,} are possible")


def _wrong(who: str, field: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{who} sent what no worker sends: {field} {what}", workers=[who], object=field)
