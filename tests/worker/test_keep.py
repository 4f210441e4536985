"""`holdfast.keep`: what a program writes, and what the coordinator is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

import holdfast
from holdfast import keep
from holdfast.arguments import as_metrics
from holdfast_coordinator import checks, wire
from holdfast_coordinator.core import rules
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.errors import InvalidRequest


def arrived(policy: keep.Policy) -> rules.Policy:
    """What the coordinator understands, after its checks."""
    message = pb.Retention.FromString(policy.message().SerializeToString())
    head = pb.ReportHead(
        caller=pb.Caller(run="/runs/7", task="worker-0", incarnation="a.1", generation="0000000a"),
        ordinal=1,
        checkpoint_name="ckpt",
        num_shards=1,
        timeout_s=60.0,
        retention=message,
    )
    checks.check_report(head)
    return wire.policy(message)


def test_rules_arrive() -> None:
    """Each rule arrives as it was written, and prints as it was written. Guards against a policy that another language
    of data changes on the way."""
    policy = (
        holdfast.keep.newest(5)
        | holdfast.keep.best(3, "val_loss", mode="min")
        | holdfast.keep.best(1, "accuracy", mode="max")
        | holdfast.keep.every(hours=6)
        | holdfast.keep.every_steps(10_000)
        | holdfast.keep.newer_than(days=1, hours=12)
    )
    assert arrived(policy) == (
        rules.Newest(5),
        rules.Best(3, "val_loss", "min"),
        rules.Best(1, "accuracy", "max"),
        rules.Every(21_600.0),
        rules.EverySteps(10_000),
        rules.NewerThan(129_600.0),
    )
    assert eval(repr(policy), {"holdfast": holdfast}) == policy
    assert keep.newest(1) | keep.newest(1) == keep.newest(1)
    assert hash(policy) == hash(policy | policy)


def test_the_arguments_of_tensorflow() -> None:
    """`max_to_keep` and the hours are short for two rules, with TensorFlow's meaning of None and 0. Guards against a
    program without a limit whose checkpoints are removed."""
    assert arrived(keep.shorthand(5, None)) == (rules.Newest(5),)
    assert arrived(keep.shorthand(5, 0.0)) == (rules.Newest(5),)
    assert arrived(keep.shorthand(2, 1.5)) == (rules.Newest(2), rules.Every(5400.0))
    assert arrived(keep.shorthand(None, 1.5)) == arrived(keep.shorthand(None, None)) == ()


def test_everything_and_something_is_everything() -> None:
    """A policy that keeps all, together with any other, keeps all. Guards against a union that keeps less than one of
    its parts."""
    assert arrived(keep.shorthand(None, None) | keep.newest(1)) == ()
    assert arrived(keep.newest(1) | keep.shorthand(None, None)) == ()


@pytest.mark.parametrize("count", [3, 3.0, np.int64(3), np.float32(3.0), Decimal(3)], ids=repr)
def test_numbers_from_configuration_files(count: Any) -> None:
    """Whole numbers are taken in any form, as `max_to_keep` is. Guards against a 3.0 from YAML that fails each save."""
    assert arrived(keep.newest(count) | keep.best(count, "loss") | keep.every_steps(count)) == (
        rules.Newest(3),
        rules.Best(3, "loss", "min"),
        rules.EverySteps(3),
    )


@pytest.mark.parametrize(
    ("make", "why"),
    [
        *((lambda value=value: keep.newest(value), "count is") for value in (0, -1, 2.5, "3", None, True, math.nan)),
        (lambda: keep.best(0, "loss"), "count is 0"),
        (lambda: keep.best(1, ""), "metric is ''"),
        (lambda: keep.best(1, 7), "metric is 7"),  # type: ignore[arg-type]
        (lambda: keep.best(1, "loss", mode="auto"), "mode is 'auto': it must be 'min' or 'max'"),
        (lambda: keep.every_steps(0), "steps is 0"),
        (keep.every, "it must be positive"),
        (lambda: keep.every(hours=-1), "it must be positive"),
        (lambda: keep.newer_than(days=1000), "at most 366 days"),
        (lambda: keep.newer_than(days="one"), "cannot be made of"),  # type: ignore[arg-type]
        (lambda: keep.every(hours=math.inf), "cannot be made of"),
        (lambda: keep.every(hours=math.nan), "cannot be made of"),
        (lambda: keep.newest(1) or keep.newest(2), r"put together with `\|`"),
        (lambda: keep.Policy(keep.newest(1)._rules * 17), "at most 16"),
    ],
)
def test_what_makes_no_rule(make: Callable[[], object], why: str) -> None:
    """What makes no rule is refused where it is written. Guards against an error at the first save; and against an
    `or`, which would be the first rule alone."""
    with pytest.raises(InvalidRequest, match=why):
        make()


def test_only_rules_are_put_together() -> None:
    """A rule and something else cannot be put together. Guards against a number that is taken for a rule."""
    with pytest.raises(TypeError):
        keep.newest(1) | 5  # type: ignore[operator]


def test_metrics_are_numbers_of_any_kind() -> None:
    """Metrics are taken as numbers of any kind, and NaN as no value. Guards against a save that fails because the loss
    is NaN, or numpy's."""
    given = {
        "loss": np.float32(0.5), "steps": np.int64(3), "nan": math.nan, "inf": np.float64("-inf"), "big": 10**400,
        "name": "resnet", "ok": True, "more": {"a": [1, 2]},
    }  # fmt: skip
    assert as_metrics(given) == {
        "loss": 0.5, "steps": 3, "nan": None, "inf": None, "big": 10**400, "name": "resnet", "ok": True,
        "more": {"a": [1, 2]},
    }  # fmt: skip
    assert as_metrics(None) == {}
