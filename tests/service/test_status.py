"""What an operator is told at 3 a.m.: `holdfast status` beside a living run."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import holdfast.cli.run_status
import holdfast.session.session
from holdfast.cli import main
from holdfast.errors import SaveFailed
from holdfast.session.hint import Hint
from holdfast_coordinator.core import membership
from holdfast_coordinator.status import STUCK_AFTER
from holdfast_protos.settings import INSECURE
from holdfast_storage.layout import HINT
from holdfast_storage.store import Store, open_store
from support.coordinators import Coordinator, StartCoordinator
from support.gated_store import Gate, GatedStore
from support.light_worker import LightWorker, World, all_join, outcomes, together, until
from support.passing_time import PassingTime


def status(target: object, expected: int | None = 0) -> dict[str, Any]:
    """What `holdfast status --json` prints, after checking its exit status (None: any)."""
    result = CliRunner().invoke(main, ["status", str(target), "--json"])
    assert expected is None or result.exit_code == expected, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def text(target: object) -> Result:
    return CliRunner().invoke(main, ["status", str(target)])


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOLDFAST_COORDINATOR", raising=False)


@pytest.fixture
def held(world: World, coordinator: Coordinator) -> Iterator[tuple[list[LightWorker], Gate]]:
    """Three workers that have saved once, of which worker-1 will stand still in writing."""
    workers = world(3, coordinator, save_timeout=600.0)
    all_join(workers)
    assert outcomes([worker.save(1) for worker in workers]) == [None] * 3
    gate = Gate("write", ".data-")
    workers[1].store = GatedStore(workers[1].store, gate)
    yield workers, gate
    gate.open()


def standing(told: dict[str, Any]) -> dict[str, str]:
    return {worker["worker"]: worker["standing"] for worker in told["workers"]}


def phases(told: dict[str, Any]) -> list[str]:
    return [worker["phase"] for worker in told["workers"]]


def test_a_save_in_flight(store: Store, held: tuple[list[LightWorker], Gate]) -> None:
    """The status shows for whom a save waits, since when and until when. Guards against searching a thousand workers
    for the slow one."""
    workers, gate = held
    saves = [worker.save(2) for worker in workers]
    assert gate.reached.wait(60.0)
    until(lambda: status(store.url)["activity"]["waiting_for"] == ["worker-1"])
    until(lambda: phases(status(store.url)) == ["commit", "write", "commit"])
    told = status(store.url)
    assert told["activity"] | {"seconds": 0, "seconds_left": 0} == {
        "kind": "save",
        "phase": "write",
        "step": 2,
        "reason": "waiting for worker-1 to write",
        "waiting_for": ["worker-1"],
        "seconds": 0,
        "seconds_left": 0,
    }
    assert 0.0 < told["activity"]["seconds"] < 60.0
    assert 0.0 < told["activity"]["seconds_left"] < 600.0
    assert [worker["waited_for"] for worker in told["workers"]] == [False, True, False]
    straggler = told["workers"][1]
    assert (straggler["phase"], straggler["step"]) == ("write", 2)
    assert 0 <= straggler["bytes_done"] < straggler["bytes_total"]
    assert told["log"]["newest"]["step"] == 1
    assert told["leads"]
    assert told["last_save"] == {"ordinal": 1, "committed": True, "failure": None}
    printed = text(store.url).stdout
    assert "now          save of step 2: waiting for worker-1 to write; under way for" in printed
    assert "write, waited for" in printed
    gate.open()
    assert outcomes(saves) == [None] * 3
    until(lambda: status(store.url)["activity"] is None)


def test_a_worker_that_is_stuck_in_writing_is_named(
    store: Store, held: tuple[list[LightWorker], Gate], passing: PassingTime
) -> None:
    """A worker that is stuck in writing is named. Guards against a hanging mount on a host that still sends
    heartbeats."""
    workers, gate = held
    saves = [worker.save(2) for worker in workers]
    assert gate.reached.wait(60.0)
    until(lambda: phases(status(store.url)) == ["commit", "write", "commit"])
    passing.by(STUCK_AFTER)
    expected = {"worker-0": "present", "worker-1": "stuck", "worker-2": "present"}
    until(lambda: standing(status(store.url, None)) == expected)
    told = status(store.url, 1)
    (sentence,) = told["bad"]
    assert sentence.startswith("worker-1 hangs: the save waits for it, and it has made no progress for")
    assert "in phase write at 0 B of" in sentence
    printed = text(store.url)
    assert printed.exit_code == 1
    assert f"BAD  {sentence[:60]}" in printed.stdout
    assert "STUCK" in printed.stdout
    gate.open()
    assert outcomes(saves) == [None] * 3
    until(lambda: standing(status(store.url)) == dict.fromkeys(["worker-0", "worker-1", "worker-2"], "present"))


def test_a_worker_that_does_not_come_to_the_save_is_named(
    store: Store, coordinator: Coordinator, world: World, passing: PassingTime
) -> None:
    """A worker that does not come to the save is named. Guards against a worker that hangs in a collective or its input
    while its heartbeats are good."""
    workers = world(2, coordinator, save_timeout=600.0)
    all_join(workers)
    assert outcomes([worker.save(1) for worker in workers]) == [None, None]
    save = workers[0].save(2)
    until(lambda: (status(store.url)["activity"] or {}).get("kind") == "save")
    until(lambda: phases(status(store.url)) == ["vote", "train"])
    passing.by(STUCK_AFTER)
    until(lambda: standing(status(store.url, None)) == {"worker-0": "present", "worker-1": "stuck"})
    told = status(store.url, 1)
    assert told["activity"]["reason"] == "waiting for worker-1 to call save()"
    assert "worker-1 hangs: the save waits for it" in told["bad"][0]
    assert "in phase train" in told["bad"][0]
    assert outcomes([save, workers[1].save(2)]) == [None, None]


def test_the_error_of_a_late_save_tells_what_the_worker_did(
    store: Store, coordinator: Coordinator, world: World, passing: PassingTime
) -> None:
    """The error of a late save tells what the worker did. Guards against a name and a phase after ten minutes, without
    whether it moved at all."""
    workers = world(2, coordinator)
    all_join(workers)
    gate = Gate("write", ".data-")
    workers[1].store = GatedStore(workers[1].store, gate)
    saves = [worker.save(1) for worker in workers]
    assert gate.reached.wait(60.0)
    until(lambda: status(store.url)["activity"]["waiting_for"] == ["worker-1"])
    until(lambda: phases(status(store.url)) == ["commit", "write"])
    passing.by(60.0)
    (error,) = outcomes(saves[:1])
    assert isinstance(error, SaveFailed)
    assert error.workers == ("worker-1",)
    assert error.phase == "write"
    assert "waiting for worker-1 to write (worker-1: in phase 'write' for" in str(error)
    assert "bytes, without progress for" in str(error)
    until(lambda: set(standing(status(store.url, None)).values()) == {"present"})
    told = status(store.url, 1)
    assert told["last_save"]["failure"]["workers"] == ["worker-1"]
    assert told["bad"][0].startswith("the last save failed: the save of step 1 was not finished in time")
    gate.open()
    outcomes(saves[1:])
    # What is over is over.
    workers[1].store = store
    assert outcomes([worker.save(2) for worker in workers]) == [None, None]
    assert status(store.url)["last_save"]["committed"]


def test_a_worker_that_falls_silent_is_named(
    store: Store, held: tuple[list[LightWorker], Gate], monkeypatch: pytest.MonkeyPatch, passing: PassingTime
) -> None:
    """A silent worker is named. Guards against a stopped process whose connection the kernel keeps."""
    workers, _ = held
    silenced, silent = threading.Event(), threading.Event()
    await_change = workers[2].session._await_change

    def fall_silent(phase: str, told: tuple[object, ...]) -> None:
        await_change(phase, told)
        silenced.set()
        silent.wait(60.0)

    monkeypatch.setattr(workers[2].session, "_await_change", fall_silent)
    assert silenced.wait(60.0)
    passing.by(membership.ALIVE_FOR)
    expected = {"worker-0": "present", "worker-1": "present", "worker-2": "silent"}
    until(lambda: standing(status(store.url, None)) == expected)
    told = status(store.url, 1)
    assert [sentence.split(":")[0] for sentence in told["bad"]] == ["worker-2 hangs"]
    assert "it has a connection and was last heard from" in told["bad"][0]
    silent.set()
    until(lambda: standing(status(store.url, None))["worker-2"] == "present")


def test_a_worker_that_is_lost_is_named(
    store: Store, held: tuple[list[LightWorker], Gate], passing: PassingTime
) -> None:
    """A lost worker is named. Guards against a host that died between two saves, noticed only at the next."""
    workers, _ = held
    workers[2].die()
    passing.until(lambda: standing(status(store.url, None))["worker-2"] == "lost")
    (sentence,) = status(store.url, 1)["bad"]
    assert sentence.startswith("worker-2 is lost: its connection is gone, and it was last heard from")


def test_workers_that_ended_in_good_order_are_no_finding(store: Store, coordinator: Coordinator, world: World) -> None:
    """Workers that left in good order are no finding. Guards against an alarm after every good end of a job."""
    workers = world(2, coordinator)
    all_join(workers)
    assert outcomes([worker.save(1) for worker in workers]) == [None, None]
    for worker in workers:
        worker.close()
    told = status(store.url)
    assert set(standing(told).values()) == {"left"}
    assert told["bad"] == []


def test_how_often_to_save(store: Store, coordinator: Coordinator, world: World) -> None:
    """The interval of Young and Daly is told, with what it rests on, once both are known. Guards against an advice out
    of nothing, and one that forgets the jobs before."""
    for job in range(3):
        (worker,) = world(1, coordinator)
        all_join([worker])
        for step in (1, 2, 3):
            assert outcomes([worker.save(step, cost_before=0.25 * step if step > 1 else None)]) == [None]
            told = status(store.url)["interval"]
            assert (told is None) == (step == 1)
        assert (told["cost_s"], told["failures"]) == (0.625, job)
        assert told["trained_s"] > 0.0
        if job == 0:
            assert told["best_s"] is None
            assert told["most_s"] is None
            assert "a save costs the training 625 ms, 0 failures in " in text(store.url).stdout
        else:
            assert told["least_s"] <= told["best_s"] <= told["most_s"]
            assert re.search(r"Young and Daly is \d+ s \(likely from \d+ s to \d+ s\)", text(store.url).stdout)
        worker.close()


def test_who_has_not_joined(
    store: Store, coordinator: Coordinator, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status names who has not joined. Guards against a pod that is never scheduled, while two others wait in
    silence."""
    workers = world(3, coordinator)
    joining = [threading.Thread(target=worker.join) for worker in workers[:2]]
    for thread in joining:
        thread.start()
    # There is neither a log nor a hint.
    monkeypatch.setenv("HOLDFAST_COORDINATOR", coordinator.address)
    until(lambda: store.list() != [])
    until(lambda: len((status(store.url)["forming"] or {"joined": ()})["joined"]) == 2)
    told = status(store.url)
    assert (told["forming"]["joined"], told["forming"]["missing"]) == (["worker-0", "worker-1"], ["worker-2"])
    assert "waiting for worker-2 to join" in text(store.url).stdout
    monkeypatch.setattr(holdfast.cli.run_status, "UNJOINED_FOR", 0.0)
    (sentence,) = status(store.url, 1)["bad"]
    assert sentence.startswith("worker-2 did not join within ")
    assert sentence.endswith("; there so far: worker-0, worker-1")
    workers[2].join()
    for thread in joining:
        thread.join(60.0)
    assert status(store.url)["forming"] is None


def test_whom_a_restore_waits_for(store: Store, held: tuple[list[LightWorker], Gate]) -> None:
    """The status names for whom a restore waits. Guards against a restart that hangs and says less than a save."""
    workers, _ = held
    results: list[object] = []
    restoring = threading.Thread(target=lambda: results.extend(together([w.restore for w in workers[:2]])))
    restoring.start()
    until(lambda: (status(store.url)["activity"] or {}).get("waiting_for") == ["worker-2"])
    activity = status(store.url)["activity"]
    assert (activity["kind"], activity["step"]) == ("restore", None)
    assert activity["reason"] == "waiting for worker-2 to read and verify"
    staged = workers[2].restore()
    restoring.join(60.0)
    for each in (staged, *results):
        each.close()  # type: ignore[union-attr]
    assert status(store.url)["activity"] is None


def test_all_runs_of_a_coordinator(
    tmp_path: Path, start: StartCoordinator, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status shows all runs of an insecure coordinator. Guards against asking ten times, by names that nobody
    knows."""
    monkeypatch.setenv(INSECURE, "1")
    coordinator = start(roots=[str(tmp_path)], insecure=True)
    assert "serves no run" in text(coordinator.address).stdout
    stores = [open_store(tmp_path / name) for name in ("b", "a")]
    for where in stores:
        workers = world(1, coordinator, store=where)
        all_join(workers)
        assert outcomes([workers[0].save(3)]) == [None]
    told = status(coordinator.address)
    assert told["coordinator"] == coordinator.id
    assert [run["run"] for run in told["runs"]] == [str(tmp_path / "a"), str(tmp_path / "b")]
    for run in told["runs"]:
        assert (run["log"]["live"], run["log"]["newest"]["step"], run["log"]["damaged"]) == (1, 3, 0)
        assert standing(run) == {"worker-0": "present"}
    assert text(coordinator.address).stdout.count("answers at") == 2


def test_all_runs_are_told_to_nobody_else(coordinator: Coordinator, store: Store, world: World) -> None:
    """A coordinator lists its runs for nobody who has not proven anything. Guards against strangers who learn the names
    of runs and workers."""
    (worker,) = world(1, coordinator)
    worker.join()
    refused = text(coordinator.address)
    assert "give the run directory instead of HOST:PORT" in refused.stderr
    assert store.url not in refused.output


def test_an_embedded_coordinator_is_found_by_the_hint(store: Store, world: World) -> None:
    """An embedded coordinator is found by the hint. Guards against an address that no operator can know."""
    workers = world(2)
    all_join(workers)
    assert store.size(HINT)
    told = status(store.url)
    assert (told["log"], told["leads"]) == (None, False)
    assert [worker["standing"] in ("present", "away") for worker in told["workers"]] == [True, True]
    assert outcomes([worker.save(1) for worker in workers]) == [None, None]
    told = status(store.url)
    assert told["leads"]
    (asked,) = told["coordinator"]["asked"]
    assert (asked["answer"], asked["from"]) == ("answers", HINT)


def test_a_run_is_found_by_its_id_where_the_paths_differ(
    tmp_path: Path, store: Store, coordinator: Coordinator, world: World
) -> None:
    """A run is found by its id if the paths differ. Guards against a coordinator that does not know the run because the
    operator's mount is elsewhere."""
    (worker,) = world(1, coordinator)
    worker.join()
    assert outcomes([worker.save(1)]) == [None]
    shutil.copytree(store.url, tmp_path / "mounted" / "elsewhere")
    told = status(tmp_path / "mounted" / "elsewhere")
    assert told["generation"] == worker.session.generation
    assert told["coordinator"]["address"] == coordinator.address


def test_another_run_at_the_same_path_is_not_told_for_this_one(
    store: Store, coordinator: Coordinator, world: World
) -> None:
    """Another run at the same path is not shown for this one. Guards against last week's hint, and another job at that
    port and path."""
    (worker,) = world(1, coordinator)
    worker.join()
    assert outcomes([worker.save(1)]) == [None]
    Path(store.url).rename(f"{store.url}-of-this-one")
    other = LightWorker(store, 0, worker.session.this_task.cluster).join()
    assert outcomes([other.save(7)]) == [None]
    other.close()
    Hint(coordinator.address, worker.session.this_task.cluster).write(store)
    told = status(store.url)
    assert told["workers"] == []
    assert "does not prove that it reads the key" in told["coordinator"]["asked"][0]["answer"]


def test_a_coordinator_that_was_restarted_says_so(store: Store, start: StartCoordinator, world: World) -> None:
    """A restarted coordinator says so. Guards against a run that seems never to have been."""
    first = start()
    (worker,) = world(1, first)
    worker.join()
    assert outcomes([worker.save(1)]) == [None]
    worker.die()
    first.stop()
    second = start(first.address)
    told = status(store.url)
    assert told["coordinator"]["address"] is None
    assert "does not serve the run" in told["coordinator"]["asked"][0]["answer"]
    assert second.server.runs.urls == []
