"""Killed at random instants, again and again: the coordinator under a run, and the workers of a run."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from holdfast_storage.layout import MANIFEST, parse_folder
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store
from support.coordinator_process import CoordinatorProcess
from support.figures import Figure, spread
from support.light_worker import committed

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes]

PATIENCE = 60.0
"""Seconds for anything to come about: no endless wait, and many times what it takes."""


class Diaries:
    """What the workers of a world note: see `enduring.Diary`."""

    def __init__(self, folder: Path, size: int) -> None:
        folder.mkdir()
        self.folder = folder
        self._notes: list[list[dict[str, Any]]] = [[] for _ in range(size)]
        self._unread = [0] * size  # bytes come before

    def of(self, worker: int) -> list[dict[str, Any]]:
        """All notes so far; an unfinished last line is left out."""
        path, notes = self.folder / f"{worker}.jsonl", self._notes[worker]
        if path.exists():
            with open(path, "rb") as file:
                file.seek(self._unread[worker])
                for line in file:
                    if line.endswith(b"\n"):
                        notes.append(json.loads(line))
                        self._unread[worker] += len(line)
        return notes

    def find(self, worker: int, kind: str, what: Any) -> dict[str, Any] | None:
        return next((note for note in reversed(self.of(worker)) if kind in note and what in (note[kind], ...)), None)

    def wait_for(self, worker: int, kind: str, what: Any = ...) -> dict[str, Any]:
        """A note, once it is there."""
        note = self.await_note(worker, kind, what, PATIENCE)
        assert note is not None, f"worker {worker} has not come to {kind} {what}: {self.of(worker)[-3:]}"
        return note

    def await_note(self, worker: int, kind: str, what: Any, patience: float) -> dict[str, Any] | None:
        """A note, if it comes within so many seconds."""
        end = time.monotonic() + patience
        while (note := self.find(worker, kind, what)) is None and time.monotonic() < end:
            time.sleep(0.001)
        return note


def test_the_coordinator_is_killed_in_fifty_saves(worlds: Any, tmp_path: Path, figure: Figure) -> None:
    """Killing the coordinator in fifty saves loses no step and no save. Guards against a restarted coordinator that
    drops a save, and a worker that trains on alone or waits for ever."""
    kills, every, saves = 50, 3, 90
    run, diaries, world = tmp_path / "run", Diaries(tmp_path / "diaries", 4), worlds.get(4)
    arguments = {"steps": saves * every, "save_every": every}
    chance, phases, seconds = random.Random(20), Counter[str](), []
    coordinator = CoordinatorProcess(tmp_path)
    coordinator.start()
    try:
        address = coordinator.address
        world.start("enduring.train", directory=str(run), diary=str(diaries.folder), coordinator=address, **arguments)
        durations = []
        for step in range(every, (saves + 1) * every, every):
            begun = diaries.wait_for(0, "save", step)["time"]
            if len(durations) < 5 or phases.total() == kills:
                durations.append(diaries.wait_for(0, "outcome", step)["time"] - begun)
                continue
            time.sleep(chance.uniform(0.0, sorted(durations)[len(durations) // 2]))
            coordinator.kill()
            hit = diaries.find(0, "outcome", step) is None
            phase = phase_of(run, step)
            time.sleep(chance.choice([0.0, chance.uniform(0.0, 2.0)]))
            restarted = time.time()
            coordinator.start()
            heard = max(diaries.wait_for(worker, "outcome", step)["time"] for worker in range(4))
            if hit:
                phases[phase] += 1
                seconds += [heard - restarted] * (phase != "committed, not told yet")
        states = world.answers(PATIENCE)
    finally:
        coordinator.kill()
    assert phases.total() == kills

    # No step was lost, none was done twice, and all workers heard the same of every save, at the same call.
    heard_by = [said_of_saves(diaries.of(worker)) for worker in range(4)]
    assert heard_by == [heard_by[0]] * 4
    for worker in range(4):
        assert [note["step"] for note in diaries.of(worker) if "step" in note] == list(range(1, saves * every + 1))
    failed = {step for kind, step, _ in heard_by[0] if kind == "failed"}
    in_log = [record.step for record in committed(open_store(run))]
    assert in_log == [step for step in range(every, (saves + 1) * every, every) if step not in failed]
    uninterrupted = Diaries(tmp_path / "uninterrupted", 4)
    wanted = world.run("enduring.train", directory=str(tmp_path / "two"), diary=str(uninterrupted.folder), **arguments)
    assert states == wanted

    figure("coordinator killed in mid-save", f"{kills} times: {', '.join(f'{n} {p}' for p, n in phases.items())}")
    figure("... steps lost, saves that failed", f"0, {len(failed)}")
    figure("... restart to all workers told of the commit", spread(seconds))


def phase_of(run: Path, step: int) -> str:
    """How far the save of a step has come, as storage has it."""
    state = read_run(open_store(run))
    if state and any(record.step == step for record in state.checkpoints):
        return "committed, not told yet"
    for folder in run.iterdir():
        attempt = parse_folder(folder.name)
        if attempt and attempt.number == step:
            return "finalizing" if (folder / MANIFEST).exists() else "writing"
    return "voting"


def said_of_saves(notes: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    """The calls of `save` of a worker and what they raised, in order."""
    return [
        ("save", n["save"], "") if "save" in n else ("failed", n["failed"], n["how"])
        for n in notes
        if "save" in n or "failed" in n
    ]


def test_a_random_worker_is_killed_thirty_times(worlds: Any, tmp_path: Path, figure: Figure) -> None:
    """A job that loses a worker thirty times ends bit-equal. Guards against going back too far, and ending elsewhere
    than an undisturbed job."""
    kills, every = 30, 3
    arguments = {"steps": 3 * every * kills, "save_every": every}
    first = Diaries(tmp_path / "uninterrupted", 2)
    wanted = worlds.get(2).run("enduring.train", directory=str(tmp_path / "one"), diary=str(first.folder), **arguments)
    worlds.end(2)

    run, chance, resumed, victims, seconds = tmp_path / "run", random.Random(30), 0, Counter[int](), []
    hung = 0
    for life in range(kills + 1):
        state = read_run(open_store(run))
        newest = str(run / state.checkpoints[-1].prefix) if state and state.checkpoints else None
        dies_early = life < kills and chance.random() < 0.2
        while True:
            diaries = Diaries(tmp_path / f"life-{life}-{hung}", 2)
            begun = time.time()
            world = worlds.get(2)
            world.start("enduring.train", directory=str(run), diary=str(diaries.folder), **arguments)
            if dies_early or all(diaries.await_note(worker, "built", ..., PATIENCE / 2) for worker in range(2)):
                break
            # TensorFlow's workers, started anew so often, do not always find each other's initial values.
            hung += 1
            assert hung <= 2, "TensorFlow does not come to building the model"
            worlds.end(2)
        if dies_early:
            time.sleep(chance.uniform(0.0, 2.0))  # while it starts, joins and restores
        else:
            for worker in range(2):
                note = diaries.wait_for(worker, "restored")
                assert note["restored"] == newest
                seconds.append(note["time"] - begun)
            resumed += 1
            if life == kills:
                break
            reached = state.checkpoints[-1].step if newest else 0
            if further := chance.randrange(3 * every):
                diaries.wait_for(chance.randrange(2), "step", reached + further)
            time.sleep(chance.uniform(0.0, 0.1))
        victim = chance.randrange(2)
        world.workers[victim].kill()
        victims[victim] += 1
        time.sleep(chance.uniform(0.0, 0.5))
        worlds.end(2)  # the other cannot go on without it: it is ended too, as a job scheduler would
    states = world.answers(PATIENCE)
    assert states == wanted
    committed(open_store(run))

    figure(
        "random worker killed", f"{kills} times (the chief {victims[0]}); resumed at the newest commit {resumed} times"
    )
    figure("... state at the end", "bit-equal to the uninterrupted run's")
    figure("... start of the workers to restored", spread(seconds))
    figure("... starts in which TensorFlow itself hung", hung)
