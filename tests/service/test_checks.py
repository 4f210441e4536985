"""What is refused before the state machine sees it, each by the name of the worker and of the field."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf.message import Message

from holdfast_coordinator import checks
from holdfast_coordinator.core.reading_back import MOST_ASKED
from holdfast_protos.conventions import LONGEST_WAIT
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.cluster import digest
from holdfast_storage.errors import InvalidRequest

NO_TIMES = [math.nan, math.inf, -1.0, LONGEST_WAIT * 1.1]
"""A deadline that never passes: all that wait with this worker wait for ever."""


NO_BASES = ["ckpt-7", "../ckpt-7", "ckpt-1.0badcafe.1/ckpt-2", "ckpt-1.0badcafe.1/ckpt-1.delta", "x" * 2_000]


CLUSTER = (("worker", ("a:1", "b:1")),)


def caller() -> pb.Caller:
    return pb.Caller(run="/runs/7", generation="0badcafe", task="worker-1", incarnation="process.1")


def join() -> pb.JoinRequest:
    request = pb.JoinRequest(caller=caller(), timeout_s=1.0)
    request.cluster.add(type="worker", addresses=["a:1", "b:1"])
    request.cluster_digest = digest(CLUSTER)
    return request


def join_of_chief() -> pb.JoinRequest:
    request = join()
    request.caller.task = "worker-0"
    request.members.add(task="worker-0", incarnation="process.1")
    request.members.add(task="worker-1", incarnation="other.1")
    return request


def check_join(request: pb.JoinRequest) -> None:
    checks.check_join(request)
    checks.check_members(request, CLUSTER)


def vote() -> pb.VoteRequest:
    return pb.VoteRequest(
        caller=caller(), ordinal=1, step=0, checkpoint_name="ckpt", on_divergence="warn", timeout_s=LONGEST_WAIT
    )


def head() -> pb.ReportHead:
    return pb.ReportHead(caller=caller(), ordinal=1, step=2**63 - 1, checkpoint_name="ckpt", num_shards=1, timeout_s=0)


def delta() -> pb.ReportHead:
    report = head()
    report.base = "ckpt-1.0badcafe.1/ckpt-1"
    return report


def fail() -> pb.FailRequest:
    return pb.FailRequest(caller=caller(), ordinal=1)


def restore() -> pb.RestoreRequest:
    return pb.RestoreRequest(caller=caller(), ordinal=1, prefix="ckpt-1", verdict="good", timeout_s=1.0)


def await_upkeep() -> pb.AwaitUpkeepRequest:
    return pb.AwaitUpkeepRequest(caller=caller())


def examined() -> pb.ExaminedRequest:
    prefix = "ckpt-1.0123abcd.1/ckpt-1"
    return pb.ExaminedRequest(caller=caller(), prefix=prefix, good=["ckpt-1.index"] * MOST_ASKED, verdict="good")


def leave() -> pb.LeaveRequest:
    return pb.LeaveRequest(caller=caller(), wait_for_others_s=1.0)


def beat() -> pb.Heartbeat:
    return pb.Heartbeat(caller=caller())


CHECKS: dict[str, Any] = {
    "join": (join, check_join),
    "vote": (vote, checks.check_vote),
    "report": (head, checks.check_report),
    "report of a delta": (delta, checks.check_report),
    "fail": (fail, checks.check_fail),
    "restore": (restore, checks.check_restore),
    "await_upkeep": (await_upkeep, lambda request: checks.check_caller(request.caller)),
    "examined": (examined, checks.check_examined),
    "leave": (leave, checks.check_leave),
    "attend": (beat, lambda beat: checks.check_caller(beat.caller)),
}


@pytest.mark.parametrize("call", CHECKS)
def test_what_workers_send_passes(call: str) -> None:
    """What workers send passes. Guards against a check that refuses what is right."""
    message, check = CHECKS[call]
    check(message())


def test_a_first_join_has_no_members() -> None:
    """A first join has no members. Guards against a worker that has just started, taken for one of a coordinator that
    is gone."""
    request = join()
    request.caller.generation = ""
    del request.members[:]
    checks.check_join(request)


@pytest.mark.parametrize(
    ("call", "field", "value"),
    [
        *(("join", "timeout_s", value) for value in NO_TIMES),
        *(("vote", "timeout_s", value) for value in NO_TIMES),
        *(("report", "timeout_s", value) for value in NO_TIMES),
        *(("restore", "timeout_s", value) for value in NO_TIMES),
        *(("leave", "wait_for_others_s", value) for value in NO_TIMES),
        *((call, "ordinal", value) for call in ("vote", "report", "fail", "restore") for value in (0, -1, -(2**63))),
        *((call, "step", value) for call in ("vote", "report") for value in (-1, -(2**63))),
        *((call, "checkpoint_name", value) for call in ("vote", "report") for value in ("", "a/b", "..", "[a]", "\n")),
        *((call, "base", value) for call in ("vote", "report") for value in NO_BASES),
        ("vote", "on_divergence", "ignore"),
        ("report", "num_shards", 0),
        ("report", "num_shards", -1),
        ("restore", "verdict", "fine"),
        *(("examined", "verdict", value) for value in ("", "missing", "fine")),
        ("examined", "prefix", "x" * 5_000),
        ("join", "restores", -1),
        *(("join", field, "x" * 5_000) for field in ("fork_point", "restored")),
        *((call, "caller.run", value) for call in CHECKS for value in ("", "runs/7", "../runs/7", "~/runs")),
        *((call, "caller.generation", value) for call in CHECKS for value in ("../..", "0BADCAFE", "0badcafe0")),
        *((call, "caller.incarnation", value) for call in CHECKS for value in ("", "x" * 300)),
        *((call, "caller.task", value) for call in CHECKS for value in ("", "-0", "worker", "worker-x", "worker-01")),
    ],
)
def test_what_no_worker_sends(call: str, field: str, value: object) -> None:
    """What no worker sends is refused by worker and field. Guards against nonsense in a folder's name, in a deadline,
    or in what is kept and deleted."""
    make, check = CHECKS[call]
    message = make()
    *path, last = field.split(".")
    where: Message = message
    for name in path:
        where = getattr(where, name)
    setattr(where, last, value)
    with pytest.raises(InvalidRequest) as caught:
        check(message)
    who = "somebody" if last == "task" else "worker-1"
    assert caught.value.object == last
    assert caught.value.workers == (() if last == "task" else (who,))
    assert str(caught.value).startswith(f"{who} sent what no worker sends: ")


@pytest.mark.parametrize(
    ("name", "role", "size"),
    [
        ("../../etc/passwd", "data", 1),
        ("/etc/passwd", "data", 1),
        ("a//b", "data", 1),
        ("", "data", 1),
        ("a\0", "data", 1),
        ("manifest.json", "data", 1),
        ("x", "index", 1),
        ("x", "", 1),
        ("x", "local", -1),
    ],
)
def test_objects_that_are_none(name: str, role: str, size: int) -> None:
    """Impossible objects are refused. Guards against a manifest that lists what is elsewhere, or itself."""
    with pytest.raises(InvalidRequest, match=r"worker-1 .* objects holds"):
        checks.check_objects("worker-1", [pb.StoredObject(name=name, role=role, size=size)])


@pytest.mark.parametrize("good", [["ckpt-1.index"] * (MOST_ASKED + 1), ["x" * 300]])
def test_more_objects_than_any_worker_reads(good: list[str]) -> None:
    """What a worker says of objects is bounded. Guards against names that fill the coordinator's memory."""
    with pytest.raises(InvalidRequest, match=r"worker-1 .* good (names 1,001 objects|holds 300 characters)"):
        checks.check_examined(pb.ExaminedRequest(caller=caller(), prefix="ckpt-1", good=good, verdict="good"))


def test_members_that_are_not_the_cluster() -> None:
    """Members that do not match the cluster are refused. Guards against a world in which only one worker believes."""
    twice, other, without = join_of_chief(), join_of_chief(), join_of_chief()
    twice.members.extend(twice.members[:1])
    other.members[1].task = "ps-0"
    without.members[0].incarnation = "somebody.else"
    check_join(join_of_chief())
    for request in (twice, other):
        with pytest.raises(InvalidRequest, match="members are not the tasks of its cluster"):
            check_join(request)
    with pytest.raises(InvalidRequest, match="members do not hold this very process"):
        check_join(without)


def test_members_are_the_chiefs_to_name() -> None:
    """Members from another worker are refused. Guards against one worker that says who the others are, and shuts them
    out of their own world."""
    request = join()
    request.members.extend(join_of_chief().members)
    with pytest.raises(InvalidRequest, match=r"worker-1 .* members are named by a worker that is not the chief"):
        check_join(request)


def test_a_job_named_twice() -> None:
    """A job that is named twice is refused. Guards against a cluster in which each reader counts other tasks."""
    request = join()
    request.cluster.add(type="worker", addresses=["c:1"])
    with pytest.raises(InvalidRequest, match="cluster names a job twice"):
        checks.check_join(request)


def test_a_negative_position() -> None:
    """A negative position is refused. Guards against a position from the end, and so another tensor than the worker
    means."""
    message = head()
    message.worker_local.append(-1)
    with pytest.raises(InvalidRequest, match="worker_local holds a negative position"):
        checks.check_report(message)


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (pb.Retention.Rule(newest=0), "newest"),
        (pb.Retention.Rule(newest=-1), "newest"),
        (pb.Retention.Rule(every_steps=0), "every_steps"),
        (pb.Retention.Rule(best=pb.Retention.Best(count=0, metric="loss", mode="min")), "best"),
        (pb.Retention.Rule(best=pb.Retention.Best(count=1, metric="", mode="min")), "best"),
        (pb.Retention.Rule(best=pb.Retention.Best(count=1, metric="x" * 300, mode="min")), "best"),
        (pb.Retention.Rule(best=pb.Retention.Best(count=1, metric="loss", mode="least")), "best"),
        *((pb.Retention.Rule(every_s=value), "every_s") for value in NO_TIMES),
        *((pb.Retention.Rule(newer_than_s=value), "newer_than_s") for value in NO_TIMES),
        (pb.Retention.Rule(), "retention"),
    ],
)
def test_rules_that_no_worker_sends(rule: pb.Retention.Rule, field: str) -> None:
    """Rules that mean nothing are refused. Guards against checkpoints that are deleted by one: above all by a rule of a
    newer version, without which others keep less."""
    make, check = CHECKS["report"]
    message: Any = make()
    message.retention.any_of.extend([pb.Retention.Rule(newest=1), rule])
    with pytest.raises(InvalidRequest) as caught:
        check(message)
    assert caught.value.object == field


def test_more_rules_than_any_worker_has() -> None:
    """The number of rules is bounded. Guards against a decision that takes a minute."""
    make, check = CHECKS["report"]
    message: Any = make()
    message.retention.any_of.extend([pb.Retention.Rule(newest=1)] * 17)
    with pytest.raises(InvalidRequest, match="17 rules"):
        check(message)
