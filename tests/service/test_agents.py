"""Agents of parameter servers, called as a chief calls them, but for TensorFlow in between."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.saving.provenance import versions
from holdfast.saving.save import Save
from holdfast.saving.shares import Assigned, Share, Shares, plan_shares
from holdfast.saving.snapshot import Snapshot
from holdfast.servers.agent import GONE_AFTER, Agent
from holdfast.session.session import Session
from holdfast.session.this_task import ThisTask
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage import lag
from holdfast_storage.cluster import Cluster, Task
from holdfast_storage.failure_message import decode
from holdfast_storage.run_key import ensure_key
from holdfast_storage.store import Store, open_store
from support.bundles import stored
from support.coordinators import Coordinator
from support.gated_store import Gate, GatedStore
from support.light_worker import LightWorker, committed, outcomes, state, tensor, together, until

CLUSTER: Cluster = (("chief", ("c:1",)), ("ps", ("p:1",)), ("worker", ("w:1",)))
OWN, THEIRS = tensor("own", (3,)), tensor("theirs", (7, 5))
GRAPH = state().object_graph


class Chief:
    """What a chief says to the one agent."""

    def __init__(self, store: Store, coordinator: Coordinator, agent: Agent, manager: str = "manager") -> None:
        self.agent, self.manager = agent, manager
        self.worker = LightWorker(store, 0, CLUSTER, coordinator=coordinator.address, save_timeout=20.0)
        session = Session(ThisTask(Task("chief", 0), CLUSTER), store, coordinator.address, 60.0)
        session._incarnation, session._access = self.worker.session._incarnation, self.worker.session._access
        self.worker.session = session
        terms = asdict(self.worker.terms)
        del terms["keep"]
        self.enlisting = {
            "version": versions()["holdfast"],
            "run": store.url,
            "cluster": CLUSTER,
            "coordinator": coordinator.address,
            "embedded_at": "",
            "join_timeout": 20.0,
            "terms": terms,
            "full_every": 0,
            "grace": 0.0,
            "exits": True,
        }

    def ask(self, do: str, *arrays: Any, **fields: Any) -> Any:
        """What the agent says. Raises what it refuses."""
        answer = json.loads(
            self.agent.answer(json.dumps({"do": do, "manager": self.manager, **fields}).encode(), *arrays)
        )
        if "failure" in answer:
            raise decode(pb.Failure.FromString(bytes.fromhex(answer["failure"]))).to_error()
        return answer["done"]

    def begin(self) -> Chief:
        self.ask("enlist", **self.enlisting)
        until(lambda: bool(self.ask("stand")))
        together([self.worker.session.join])
        shares = self.shares()
        [item] = shares.plan.parts[1].objects
        pieces = [(p.position, p.extents, p.begin, p.end, p.offset) for p in item.pieces]
        self.ask(
            "assign",
            digest=shares.digest.hex(),
            worker=1,
            shards=shares.plan.num_shards,
            tensors=[(THEIRS.key, THEIRS.dtype, THEIRS.shape)],
            objects=[(item.shard, pieces)],
            tables=[],
        )
        return self

    def save(self, step: int) -> Save:
        shares = self.shares()
        ordinal = self.worker._saves + 1
        values = np.frombuffer(THEIRS.data, np.float32).reshape(THEIRS.shape)
        self.ask(
            "save",
            values,
            assignment=shares.digest.hex(),
            snapshot=b"one".hex(),
            ordinal=ordinal,
            step=step,
            is_full=True,
        )
        return self.worker.save(step, Snapshot((OWN,), GRAPH), assigned=Assigned(shares.digest, b"one", shares.plan))

    @staticmethod
    def shares() -> Shares:
        return plan_shares([[Share(OWN.spec, None)], [Share(THEIRS.spec, None)]])


@pytest.fixture
def agent() -> Iterator[Agent]:
    agent = Agent(0, None)
    yield agent
    agent.end()


@pytest.fixture
def chief(store: Store, coordinator: Coordinator, agent: Agent) -> Iterator[Chief]:
    ensure_key(store)
    chief = Chief(store, coordinator, agent)
    yield chief
    chief.worker.close(0.0)


def test_an_agent_writes_what_it_is_given(store: Store, chief: Chief) -> None:
    """What the chief hands over is committed, save after save. Guards against an agent that keeps the first values, or
    that has no part in the world."""
    chief.begin()
    for step in (1, 2):
        assert outcomes([chief.save(step)]) == [None]
    for record in committed(store):
        assert stored(store, record.prefix)["theirs"] == bytes(THEIRS.data)
    assert [record.step for record in committed(store)] == [1, 2]


def test_what_it_holds_is_let_go(chief: Chief) -> None:
    """After a commit the agent keeps no value. Guards against a server that holds a second state of memory for ever."""
    chief.begin()
    assert outcomes([chief.save(1)]) == [None]
    [member] = chief.agent._members.values()
    assert all(each.data == b"" for assigned in member.assignments.values() for each in assigned.tensors)
    done = member.lane.submit(lambda: None)
    assert done.wait(20.0)
    assert member.turns._left is None


def test_a_chief_that_it_does_not_know(chief: Chief) -> None:
    """It is refused by the server's name. Guards against a server that came back empty and is saved as if it were
    whole."""
    for do in ("stand", "save", "assign", "restore"):
        with pytest.raises(Exception, match=r"ps-0 does not know this chief: it was started again since") as caught:
            chief.ask(do)
        assert caught.value.workers == ("ps-0",)  # type: ignore[attr-defined]


def test_another_version_is_told(chief: Chief) -> None:
    """A server with another version is named. Guards against calls that are taken for others."""
    with pytest.raises(Exception, match=r"ps-0 runs Holdfast .*, and the chief 0\.0: give all tasks the same"):
        chief.ask("enlist", **{**chief.enlisting, "version": "0.0", "news": 1})


def test_another_directory_is_told(chief: Chief, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose storage is not the chief's says so, writes nothing there, and can be enlisted again once that is
    mended. Guards against a job that waits ten minutes for a server with a disk of its own."""
    monkeypatch.setattr(lag, "LAG", 0.2)
    elsewhere = tmp_path / "elsewhere"
    chief.ask("enlist", **{**chief.enlisting, "run": str(elsewhere)})

    def refusal() -> str:
        try:
            chief.ask("stand")
        except Exception as error:
            return str(error)
        return ""

    until(lambda: bool(refusal()))
    assert "ps-0 does not find the chief's run directory at" in refusal()
    assert not elsewhere.exists() or not list(elsewhere.rglob("*key*"))
    chief.begin()
    assert outcomes([chief.save(1)]) == [None]


def test_the_end_finishes_the_save(store: Store, chief: Chief) -> None:
    """Told to end amid a save, an agent finishes it, and takes no other. Guards against SIGTERM that undoes what nearly
    all servers have written."""
    chief.begin()
    [member] = chief.agent._members.values()
    gate = Gate("write", ".data-")
    member._store = GatedStore(member.store, gate)
    save = chief.save(1)
    assert gate.reached.wait(20.0)
    ended: list[Any] = []

    def end() -> None:
        chief.agent.end()
        ended.append(True)

    def let_go() -> None:
        until(lambda: chief.agent._ends)
        with pytest.raises(Exception, match=r"ps-0 was told to end \(SIGTERM\)"):
            chief.ask("stand")
        assert not ended
        gate.open()

    assert together([end, let_go]) == [None, None]
    assert outcomes([save]) == [None]
    assert [record.step for record in committed(store)] == [1]


def test_all_save_before_the_end(store: Store, chief: Chief) -> None:
    """Told to end, an agent wishes that all save, if the chief's program looks for such wishes, and ends after that
    save. Guards against a preempted server with which all is lost since the last save."""
    chief.enlisting |= {"grace": 30.0}
    chief.begin()
    gate = chief.worker.session.requests.gate

    def save() -> Exception | None:
        until(lambda: gate.decided == 1)
        [decision] = gate.orders.decisions
        assert (decision.exits, "SIGTERM on ps-0" in decision.reason) == (True, True)
        return outcomes([chief.save(1)])[0]

    begun = time.monotonic()
    assert together([chief.agent.end, save]) == [None, None]
    assert time.monotonic() - begun < 25.0
    assert [record.step for record in committed(store)] == [1]


def test_an_older_chief_is_not_left_for_its_calls(
    store: Store, coordinator: Coordinator, agent: Agent, chief: Chief, tmp_path: Path
) -> None:
    """Two managers of a chief have a part in it each, side by side. Guards against an agent that follows whoever called
    last."""
    chief.begin()
    other_store = open_store(str(tmp_path / "other"))
    ensure_key(other_store)
    other = Chief(other_store, coordinator, agent, "other")
    try:
        other.begin()
        assert outcomes([chief.save(1), other.save(1)]) == [None, None]
        assert len(committed(store)) == len(committed(other_store)) == 1
    finally:
        other.worker.close(0.0)


def test_a_chief_keeps_all_its_worlds_while_coordinators_are_away(
    coordinator: Coordinator, agent: Agent, chief: Chief, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two managers of one chief none is left for the other, however long coordinators are away; the world of an
    earlier chief is. Guards against a chief whose first manager can save nothing any more after such a time."""
    chief.manager = "one.1"
    chief.begin()
    other_store = open_store(str(tmp_path / "other"))
    ensure_key(other_store)
    other = Chief(other_store, coordinator, agent, "one.2")
    third_store = open_store(str(tmp_path / "third"))
    ensure_key(third_store)
    third = Chief(third_store, coordinator, agent, "two.1")
    try:
        other.begin()
        away = time.monotonic() - 2 * GONE_AFTER
        monkeypatch.setattr(Session, "away_since", property(lambda _: away, lambda *_: None), raising=False)
        agent._leave_what_is_over()
        assert list(agent._members) == ["one.1", "one.2"]
        third.begin()
        agent._leave_what_is_over()
        assert list(agent._members) == ["two.1"]
    finally:
        other.worker.close(0.0)
        third.worker.close(0.0)
