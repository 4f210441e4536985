"""What a parameter server keeps of restores."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.servers import restoring
from holdfast.servers.member import Enlisting, Member
from holdfast.session.lane import Pending
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CheckpointDamaged, InvalidRequest
from holdfast_storage.errors import CoordinatorUnavailable as Unavailable

pytestmark = pytest.mark.tensorflow

CLUSTER = (("chief", ("a:1",)), ("ps", ("b:1", "c:1")))


class Restored:
    """Stands for what was read."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def drop(self) -> None:
        self.calls.append("drop")

    def close(self) -> None:
        self.calls.append("close")

    def hand_over(self, key: str, spec: str, dtype: Any) -> tuple[Any, ...]:
        return key, spec, dtype.name


@pytest.fixture
def member(monkeypatch: pytest.MonkeyPatch) -> Member:
    """One that has joined, as far as it can tell. Its restores are over when `restores[...]` is set."""
    monkeypatch.setattr(Member, "_open", lambda self: None)
    monkeypatch.setattr(Member, "_join", lambda self: None)
    said = Enlisting("", CLUSTER, "", "", 1.0, terms=None, full_every=0, grace=0.0, exits=False)  # type: ignore[arg-type]
    return Member(Task("ps", 1), said, None)


def agreed(value: Any) -> Pending[Any]:
    pending: Pending[Any] = Pending()
    pending.fail(value) if isinstance(value, Exception) else pending.set(value)
    return pending


def test_only_the_last_restore_is_kept(member: Member) -> None:
    """Once a restore is settled, earlier ones are closed, and what nobody has asked for is dropped; values that are
    asked for after that still come. Guards against servers that keep one more state with each restore."""
    first, last = Restored(), Restored()
    member.restores = {1: agreed(first), 2: agreed(CheckpointDamaged("no")), 3: agreed(last)}
    restoring.settle(member, (), ordinal=3)
    assert (first.calls, last.calls, list(member.restores)) == (["close"], ["drop"], [3])
    assert restoring.fetch(member, (), ordinal=3, asked=[("v", "", 1)]) == [("v", "", "float32")]
    with pytest.raises(InvalidRequest, match="ps-1"):
        restoring.fetch(member, (), ordinal=1, asked=[("v", "", 1)])


def test_the_chief_hears_whether_a_server_has_restored(member: Member) -> None:
    """A server says that it waits, that it has what it wants, or why not. Guards against a chief that applies what a
    server does not have."""
    member.restores = {1: Pending(), 2: agreed(Restored()), 3: agreed(Unavailable("gone"))}
    assert [restoring.is_restored(member, (), ordinal=ordinal) for ordinal in (1, 2)] == [False, True]
    with pytest.raises(Unavailable, match="gone"):
        restoring.is_restored(member, (), ordinal=3)


def test_a_server_that_waits_in_a_restore_leaves_at_once(member: Member) -> None:
    """A chief that has given up a restore is gone: the server leaves its world, although its lane waits for the others.
    Guards against a server that takes minutes to end."""
    blocked: Pending[None] = Pending()
    member.restores = {1: member.lane.submit(lambda: blocked.wait(30.0))}  # type: ignore[dict-item]
    left = member.leave()
    assert left.wait(10.0)
    assert member.restores == {}
    blocked.set(None)
