"""The tasks of a cluster with parameter servers, killed, frozen, emptied and refused at bad moments.

Every step of the job adds one to all values, so that a checkpoint or a server that is torn, lost or of another step
shows. One cluster serves all tests; each has a chief and a run of its own.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM
from typing import Any

import pytest

from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store
from support.coordinator_process import CoordinatorProcess
from support.figures import Figure, spread
from support.light_worker import committed
from support.server_world import CHIEF, ServerWorld, ask
from support.stored_values import values_in

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]

SOON = 30.0
"""Seconds within which every failure is told: a task counts as lost after ten, and two cores may have much to do."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerWorld]:
    world = ServerWorld(tmp_path_factory.mktemp("cluster"))
    yield world
    world.close()


class Run:
    """A run of the cluster's, begun by a fresh chief."""

    def __init__(self, world: ServerWorld, directory: Path) -> None:
        self.world = world
        self.store = open_store(str(directory))

    def begin(self, *dead: str, **options: Any) -> Any:
        """Start the chief anew, and these tasks, and whatever else does not run, and restore."""
        self.world.restart(*dead)
        return self.world.run("served.begin", directory=self.store.url, **options)

    def resumes_at(self, step: int, *dead: str, **options: Any) -> None:
        """Begin again, at the commit of a step, whose values are those of that step; and save another."""
        begun = self.begin(*dead, **options)
        assert begun["restored"] == f"{self.store.url}/{committed(self.store)[-1].prefix}", begun
        assert begun["values"] == [float(step)]
        self.saves(step + 1)

    def saves(self, step: int) -> None:
        """Train to a step, and save it."""
        assert self.world.run("served.train") == {"steps": step}
        assert self.world.run("served.save", step=step) is None
        self.is_at(step)

    def is_at(self, step: int) -> None:
        """Whether the commits are those of all steps up to one, and each has the values of its step."""
        records = committed(self.store)
        assert [record.step for record in records] == list(range(1, step + 1))
        assert [values_in(self.store, record) for record in records] == [{float(record.step)} for record in records]


@pytest.fixture
def run(cluster: ServerWorld, tmp_path: Path) -> Run:
    return Run(cluster, tmp_path / "run")


def names(failure: Any, task: str) -> None:
    """Whether a failed save has been told soon, naming a task."""
    assert failure is not None, "it was committed"
    assert failure["type"] == "SaveFailed"
    assert set(re.findall(r"ps-\d", failure["message"])) == {task}
    assert failure["seconds"] < SOON


def until(condition: Callable[[], object], patience: float = SOON) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it has not come about"
        time.sleep(0.005)


@pytest.mark.parametrize("phase", ["vote", "write", "report"])
def test_a_server_is_killed_in_a_save(run: Run, phase: str) -> None:
    """The save fails by the server's name, the training cannot go on, and the next chief goes on from the commit
    before. Guards against half a checkpoint, a chief that waits for ever, and one that trains on without its variables.
    """
    assert run.begin()["restored"] is None
    run.saves(1)
    world = run.world
    world.run("served.train")
    world.arrange("ps-1", phase, "die")
    names(world.run("served.save", step=2), "ps-1")
    lost = world.run("served.train")
    assert lost["raised"] in ("UnavailableError", "AbortedError")
    assert lost["seconds"] < SOON
    run.is_at(1)
    run.resumes_at(1, "ps-1")


def test_a_server_is_killed_in_a_restore(run: Run) -> None:
    """The restore fails by the server's name, and the next one restores. Guards against a chief that trains on what was
    half restored, and against a good checkpoint that counts as damaged because its reader died."""
    run.begin()
    run.saves(1)
    run.world.arrange("ps-1", "read", "die")
    failure = run.begin()["failure"]
    assert "ps-1" in failure["message"]
    assert failure["seconds"] < 60 + SOON
    run.resumes_at(1, "ps-1")


def test_a_server_comes_back_empty(run: Run) -> None:
    """While the chief lives, a server that was started anew is neither trained on nor saved. Guards against a
    checkpoint of initial values under the number of a trained step."""
    run.begin()
    run.saves(1)
    world = run.world
    world.kill("ps-1")
    world.start("ps-1")
    assert world.run("served.train")["raised"] in ("UnavailableError", "AbortedError")
    names(world.run("served.save", step=2), "ps-1")
    assert "raised" in world.run("served.train")
    run.is_at(1)
    run.resumes_at(1)


def test_the_chief_is_killed_in_a_save(run: Run) -> None:
    """A new chief, with the servers that lived on, goes on from the commit before. Guards against servers that belong
    to a dead chief for ever, or finish its save under the new one's eyes."""
    run.begin()
    run.saves(1)
    world = run.world
    world.run("served.train")
    held = world.hold("ps-1", "write")
    world.chief.tell("served.save", {"step": 2})
    until(held.exists)
    world.kill(CHIEF)
    held.unlink()
    run.is_at(1)
    run.resumes_at(1)


def test_a_worker_is_killed_in_a_save(run: Run) -> None:
    """The save commits: workers hold nothing. The training goes on once the worker is back. Guards against workers that
    count as members of the world."""
    run.begin()
    run.saves(1)
    world = run.world
    world.run("served.train")
    held = world.hold("ps-1", "write")
    world.chief.tell("served.save", {"step": 2})
    until(held.exists)
    world.kill("worker-0")
    held.unlink()
    assert world.chief.answer(time.monotonic() + SOON) is None
    run.is_at(2)
    world.start("worker-0")
    run.saves(3)


def test_the_coordinator_is_killed_in_a_save(run: Run, tmp_path: Path) -> None:
    """A coordinator of its own, killed and started again in mid-save, commits it. Guards against servers that do not
    find it again."""
    coordinator = CoordinatorProcess(tmp_path)
    coordinator.start()
    try:
        coordinator.await_listening()
        world = run.world
        run.begin(coordinator=coordinator.address)
        run.saves(1)
        world.run("served.train")
        held = world.hold("ps-1", "write")
        world.chief.tell("served.save", {"step": 2})
        until(held.exists)
        coordinator.kill()
        coordinator.start()
        held.unlink()
        assert world.chief.answer(time.monotonic() + SOON) is None
        run.is_at(2)
        run.saves(3)
    finally:
        coordinator.kill()


def test_a_frozen_chief_wakes_after_a_new_one_has_come(run: Run) -> None:
    """The old chief is superseded, and the new one goes on undisturbed. Guards against two that undo each other's
    saves, and against servers that follow whoever called last."""
    run.begin()
    run.saves(1)
    world = run.world
    world.chief.send(SIGSTOP)
    old = world.replace_chief()
    begun = world.run("served.begin", directory=run.store.url)
    assert begun["values"] == [1.0], begun
    run.saves(2)
    old.send(SIGCONT)
    assert ask(old, "served.train") == {"steps": 2}  # of variables of its own
    failure = ask(old, "served.save", step=2)
    assert failure["type"] == "Superseded", failure
    run.saves(3)


def test_a_server_is_told_to_end_in_a_save(run: Run) -> None:
    """SIGTERM lets a server finish its upload, and it exits with 0: the save commits. Guards against TensorFlow's
    server, which ignores the signal until it is killed, and against one that ends at once."""
    run.begin()
    run.saves(1)
    world = run.world
    world.run("served.train")
    held = world.hold("ps-1", "write")
    world.chief.tell("served.save", {"step": 2})
    until(held.exists)
    server = world.running["ps-1"]
    server.send(SIGTERM)
    time.sleep(0.5)  # it has heard
    held.unlink()
    assert world.chief.answer(time.monotonic() + SOON) is None
    assert server.wait(SOON) == 0
    run.is_at(2)
    run.resumes_at(2, "ps-1")


def test_a_server_is_frozen_in_a_save(run: Run) -> None:
    """The save is given up by the server's name; once the server wakes, the next one commits. Guards against a stalled
    host that stops the training for ever, and whose late bytes get into a later checkpoint."""
    run.begin(save_timeout=10.0)
    run.saves(1)
    world = run.world
    world.run("served.train")
    world.arrange("ps-1", "write", "freeze")
    names(world.run("served.save", step=2), "ps-1")
    run.is_at(1)
    world.running["ps-1"].send(SIGCONT)
    assert world.run("served.save", step=2) is None
    run.is_at(2)


def test_the_storage_refuses_one_server(run: Run) -> None:
    """The save fails, naming server and object, the training goes on, and the next save commits. Guards against a full
    disk on one host that ends the job, or that is told as somebody else's."""
    run.begin()
    run.saves(1)
    world = run.world
    world.arrange("ps-1", "write", "refuse")
    failure = world.run("served.save", step=1)
    names(failure, "ps-1")
    assert "the test has filled the disk" in failure["message"] or "No space" in failure["message"]
    assert ".data-" in failure["object"]
    run.saves(2)


KILLS, SAVES = 20, 40


def test_twenty_random_kills(run: Run, tmp_path: Path, figure: Figure) -> None:
    """Chief, servers and coordinator killed at random instants: every commit verifies and has the values of its step,
    and each life goes on from the newest. Guards against an instant at which a kill does damage."""
    world, chance, seconds, hit = run.world, random.Random(13), list[float](), 0
    victims = [CHIEF, "ps-0", "ps-1", "coordinator"] * (KILLS // 4)
    chance.shuffle(victims)
    coordinator = CoordinatorProcess(tmp_path)
    coordinator.start()
    world.restart()
    arguments = {"directory": run.store.url, "coordinator": coordinator.address, "saves": SAVES, "max_to_keep": None}
    try:
        for life in range(KILLS + 1):
            diary = Diary(tmp_path / f"{life}.jsonl")
            newest = steps(run)[-1] if steps(run) else 0
            begun = time.monotonic()
            world.chief.tell("served.endure", {**arguments, "diary": str(diary.path)})
            until(lambda diary=diary: diary.notes(), 60.0)
            seconds.append(time.monotonic() - begun)
            assert diary.notes()[0]["values"] == [float(newest)]
            killed = ""
            while victims and killed in ("", "coordinator"):
                seen = len(diary.notes())
                until(lambda diary=diary, seen=seen: len(diary.notes()) > seen)
                time.sleep(chance.uniform(0.0, 0.1))
                killed = victims.pop()
                hit += diary.notes()[-1].get("saving", 0) > max(steps(run), default=0)
                if killed == "coordinator":
                    coordinator.kill()
                    time.sleep(chance.uniform(0.0, 0.5))
                    coordinator.start()
                else:
                    world.kill(killed)
            if not killed or killed == "coordinator":
                assert world.chief.answer(time.monotonic() + 120.0) == {"steps": SAVES}
                break
            if killed != CHIEF:
                assert "raised" in world.chief.answer(time.monotonic() + 60.0)
                assert all(killed in note.get("failed", killed) for note in diary.notes())
            world.restart()
    finally:
        coordinator.kill()
    assert not victims
    records = committed(run.store)
    assert [record.step for record in records] == sorted({record.step for record in records})
    assert records[-1].step == SAVES
    assert [values_in(run.store, record) for record in records] == [{float(record.step)} for record in records]

    figure("tasks of parameter servers' jobs killed", f"{KILLS} times, {hit} of them in a save that was not committed")
    figure("... commits, all verified, all values those of the step", len(records))
    figure("... start of the chief to restored", spread(seconds))


class Diary:
    """What a chief notes: see `served.endure`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def notes(self) -> list[dict[str, Any]]:
        """All notes so far; an unfinished last line is left out."""
        text = self.path.read_text() if self.path.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def steps(run: Run) -> list[int]:
    state = read_run(run.store)
    return [record.step for record in state.checkpoints] if state else []
