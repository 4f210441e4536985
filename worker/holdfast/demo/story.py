"""The demo from beginning to end, reported while it happens."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from holdfast.demo.cast import Cast, Job
from holdfast.demo.compare import Comparison, compare_checkpoints
from holdfast.demo.picture import draw
from holdfast.demo.processes import Fleet, Process, wait_until
from holdfast.demo.progress import Life, read_lives
from holdfast.demo.sabotage import Kill, kill_in_mid_save
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import open_store

STEPS = 240
SAVE_EVERY = 20
DEADLINE_S = 240.0  # for each of the three trainings, which need some 20 seconds
_MARKER = "made-by-holdfast-demo"


class Story:
    """One run of the demo, in its own directory.

    cast: who trains.
    say: receives each sentence when it becomes true.
    """

    def __init__(self, directory: Path, cast: Cast, say: Callable[[str], None]) -> None:
        self.directory = directory
        self._cast = cast
        self._say = say
        self._began = time.monotonic()

    def tell(self) -> bool:
        """Run everything. Return whether the interrupted run ended bit-equal to the uninterrupted one.

        Raises ProcessFailed, with the ends of the logs, if a process does not do what it should. Whatever happens, no
        process is left behind.
        """
        _prepare(self.directory, self._cast)
        self.say(
            f"{self._cast.who} will {self._cast.trains} for {STEPS} steps, saving every {SAVE_EVERY}. "
            f"Everything goes to {self.directory}/"
        )
        with Fleet(self.directory / "logs") as fleet:
            coordinator, address = fleet.start_coordinator(self.directory)
            self.say(f"The coordinator listens on {address} (pid {coordinator.pid}).")
            kill = self._interrupted(fleet, coordinator, address)
            self.say("For comparison, the same run once more with nobody killed.")
            self._train(fleet, coordinator, address, "uninterrupted")
        return self._verdict(kill)

    def say(self, text: str) -> None:
        self._say(f"[{time.monotonic() - self._began:5.1f} s] {text}")

    def _interrupted(self, fleet: Fleet, coordinator: Process, address: str) -> Kill:
        job, who = self._start(fleet, address, "interrupted"), self._cast.victim
        processes = [coordinator, *job.processes]
        self._wait_for_first_step("interrupted", processes, life=0)
        pid = job.victim.pid
        self.say(f"They train. {who.capitalize()} (pid {pid}) will not survive the save of step {STEPS // 2}.")
        kill = kill_in_mid_save(self.directory / "interrupted", job.victim, processes, STEPS // 2, DEADLINE_S)
        self.say(
            f"SIGKILL for {who} in the middle of the save of step {kill.step}: {kill.objects} objects "
            f"({kill.size:,} bytes) were already written, the commit was not."
            + (f" ({kill.misses} earlier saves were over too soon.)" if kill.misses else "")
        )
        for process in job.processes:
            process.end()
        self.say("The others cannot go on without it; they are ended too, as a cluster manager would.")
        committed = self._committed("interrupted")
        torn = "That save came through after all." if kill.step in committed else "The torn save is invisible."
        self.say(f"Committed so far: steps {', '.join(map(str, committed))}. {torn}")
        self._train(fleet, coordinator, address, "interrupted", life=1)
        return kill

    def _train(self, fleet: Fleet, coordinator: Process, address: str, run: str, life: int = 0) -> None:
        job = self._start(fleet, address, run)
        processes = [coordinator, *job.processes]
        self._wait_for_first_step(run, processes, life)
        restored = self._lives(run)[life].restored
        self.say(f"They go on from step {restored}." if restored else "They train.")
        wait_until(lambda: all(t.returncode == 0 for t in job.trainers), processes, DEADLINE_S, "the training to end")
        for process in job.processes:
            process.end()
        self.say(f"Training ended at step {self._lives(run)[life].reached}.")

    def _start(self, fleet: Fleet, address: str, run: str) -> Job:
        results = self._results(run)
        results.mkdir(parents=True, exist_ok=True)
        arguments = ["--directory", str(self.directory / run), "--results", str(results)]
        arguments += ["--steps", str(STEPS), "--save-every", str(SAVE_EVERY)]
        job = self._cast.start(fleet, run, arguments, {"HOLDFAST_COORDINATOR": address})
        pids = ", ".join(str(process.pid) for process in job.processes)
        self.say(f"{self._cast.who} start (pids {pids}); importing TensorFlow takes most of the time.")
        return job

    def _wait_for_first_step(self, run: str, processes: list[Process], life: int) -> None:
        def trains() -> bool:
            lives = self._lives(run)
            return len(lives) > life and bool(lives[life].steps)

        wait_until(trains, processes, DEADLINE_S, "the first training step")

    def _verdict(self, kill: Kill) -> bool:
        first, second = self._results("interrupted"), self._results("uninterrupted")
        comparisons = [
            *self._cast.compare(first, second),
            compare_checkpoints(self.directory / "interrupted", self.directory / "uninterrupted"),
        ]
        self.say("The killed and resumed run against the uninterrupted one:")
        for comparison in comparisons:
            self._say(f"    {_line(comparison)}")
        equal = all(c.equal for c in comparisons)
        interrupted, uninterrupted = self._lives("interrupted"), self._lives("uninterrupted")
        self._say("")
        self._say(f"Verdict: {'BIT-EQUAL. Nothing of the training was lost.' if equal else 'NOT EQUAL.'}")
        for line in _cost(interrupted, kill):
            self._say(line)
        picture = self.directory / "loss.png"
        draw(picture, interrupted, uninterrupted, self._cast.victim, kill)
        run = shlex.quote(str(self.directory / "interrupted"))
        self._say(f"Picture:     {picture}")
        self._say(f"Logs:        {self.directory / 'logs'}")
        self._say(f"Checkpoints: {run}; look at them with")
        for command in (f"ls {run}", f"show {run}@{STEPS}", f"verify {run}"):
            self._say(f"    holdfast {command}")
        return equal

    def _results(self, run: str) -> Path:
        return self.directory / "results" / run

    def _lives(self, run: str) -> list[Life]:
        """Return what the first trainer did in a run. The others go in step with it."""
        return read_lives(self._results(run) / "progress-0.jsonl")

    def _committed(self, run: str) -> list[int]:
        state = read_run(open_store(str(self.directory / run)))
        return [c.step for c in state.checkpoints] if state else []


def _prepare(directory: Path, cast: Cast) -> None:
    """Make the directory, or empty it if an earlier demo made it. Raises InvalidRequest if neither is possible."""
    absent = [package for module, package in cast.needs.items() if importlib.util.find_spec(module) is None]
    if absent:
        raise InvalidRequest(f"the demo needs {', '.join(absent)}: pip install 'holdfast[demo]'")
    try:
        if directory.exists() and any(directory.iterdir()):
            if not (directory / _MARKER).exists():
                raise InvalidRequest(f"{directory} is not empty and not of an earlier demo: give another --directory")
            shutil.rmtree(directory)
        (directory / "logs").mkdir(parents=True)
        (directory / _MARKER).touch()
    except OSError as error:
        raise InvalidRequest(f"the demo cannot write to {directory}: {error.strerror}") from error


def _line(comparison: Comparison) -> str:
    verdict = "bit-equal" if comparison.equal else "DIFFERS"
    line = f"{verdict:<10} {comparison.what:<47} {comparison.compared:>4} compared, {comparison.size:>11,} bytes"
    if comparison.local:
        line += f"; {comparison.local} of them different on each worker"
    if comparison.differing:
        line += f"; first of {len(comparison.differing)}: {comparison.differing[0]}"
    return line


def _cost(lives: list[Life], kill: Kill) -> list[str]:
    """Describe the cost of the kill: steps, and the time until the killed step was reached again."""
    before, after = lives[0], lives[-1]
    again = next(s.time for s in after.steps if s.number >= before.reached)
    return [
        f"Steps lost:  {before.reached - after.restored}, done again: killed at step {before.reached}, "
        f"resumed from {after.restored}",
        f"Time lost:   {again - kill.time:.1f} s until step {before.reached} was reached again, "
        f"{after.began - kill.time:.1f} s of it to start Python and TensorFlow anew",
    ]
