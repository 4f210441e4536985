"""A simulated world: processes, storage, network, clocks, what goes wrong, and the story of all that."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from holdfast_storage.lag import LAG
from simulation.checks import Checks
from simulation.fakes import Now, here
from simulation.loop import Loop
from simulation.network import Network
from simulation.policy import Kind, Point, Policy
from simulation.processes import Memory, Process
from simulation.scheduler import Scheduler
from simulation.storage import Bucket, Store, View, Violation

LEFT_WITHIN = 12.0
"""Seconds within which all threads of what was closed must have ended, where storage and network answer at once."""

MARGIN = 60.0
"""Seconds beyond its own deadline within which a call must end, though storage and network are slow."""


class World:
    """One simulation. Everything in it follows from the seed and the policy.

    Attributes:
        policy: what goes wrong; may be replaced at any time.
        counts: of everything worth counting.
    """

    def __init__(self, seed: int, policy: Policy | None = None, *, in_parts: bool = False) -> None:
        self.seed = seed
        self.scheduler = Scheduler(seed)
        self.policy = policy or Policy()
        self.processes: list[Process] = []
        self.network = Network(self)
        self.bucket = Bucket(self.scheduler)
        self.checks = Checks(self)
        self.counts: Counter[str] = Counter()
        self.calm = False  # nothing goes wrong any more
        self._in_parts = in_parts
        self._launchers: dict[str, Memory] = {}
        self._views: dict[str, View] = {}
        self._story: list[tuple[float, str, object]] = []
        self._points = 0

    # -- processes --

    def process(self, name: str, host: str) -> Process:
        """A new process, with the storage as its host sees it. It does nothing yet."""
        made = Process(self.scheduler, name, host)
        made.store = Store(
            self.bucket,
            self._views.setdefault(host, View()),
            made,
            lambda: self.policy,
            self.point,
            in_parts=self._in_parts,
        )
        made.can_start_threads = lambda: self.policy.starts_thread(made)
        Loop(made, self.broke)
        self.processes.append(made)
        return made

    def launcher(self, host: str) -> Memory:
        """The memory of a process that forks workers, which has the product imported, and in use."""
        if host not in self._launchers:
            self._launchers[host] = Memory({f"launcher on {host}": self.scheduler.random.randbytes(16)})
        return self._launchers[host]

    def kill(self, process: Process, *, host: bool = False) -> None:
        """SIGKILL; with its host, nobody is told that its connections are gone."""
        if process.alive:
            self.tell(process, "is killed, with its host" if host else "is killed")
            self.counts["kills"] += 1
            self.network.died(process, host=host)
            process.kill()

    def stop(self, process: Process) -> None:
        """SIGSTOP."""
        if process.alive and not process.stopped:
            self.tell(process, "is stopped")
            self.counts["stops"] += 1
            process.stop()
            self.network.stopped(process)

    def resume(self, process: Process) -> None:
        """SIGCONT."""
        if process.alive and process.stopped:
            self.tell(process, "goes on")
            process.resume()

    def check_ended(self, process: Process, what: str) -> None:
        """Check, after `LEFT_WITHIN`, that nothing is left of what was closed in a process."""
        assert process.loop is not None
        left = [*(name for name in process.threads if name not in ("main", "loop", "closer")), *process.loop.tasks()]
        if left:
            self.violate("left over", f"{process}: {what}, and there are still {', '.join(left)}\n{self.waits()}")
        self.counts["ends without a rest"] += not left

    def check_idle(self, coordinator: Process) -> None:
        """Check that an idle coordinator gives its threads back after a while. One of them may be reading what seems to
        be missing a second time, and wait until no mount can show it late."""

        def rest() -> list[str]:
            return [name for name in coordinator.threads if name.startswith("holdfast")]

        if not self.run(lambda: not rest(), LAG):
            self.violate("left over", f"{coordinator} has nothing to do, and has {', '.join(rest())}\n{self.waits()}")

    # -- what happens --

    def point(self, kind: Kind, process: Process, verb: str, what: str) -> Point:
        """The next numbered point; it goes into the story."""
        self._points += 1
        point = Point(self._points, kind, process, verb, what)
        self._story.append((self.scheduler.now, process.name, point))
        return point

    @property
    def points(self) -> int:
        """The number of points so far."""
        return self._points

    def tell(self, who: object, what: object) -> None:
        """A line of the story; `what` is made a string when the story is asked for."""
        self._story.append((self.scheduler.now, str(who), what))
        self.scheduler.noted = True

    def broke(self, text: str) -> None:
        """Something of the product failed that must not fail."""
        self.violate("broke", text)

    def violate(self, kind: str, text: str) -> None:
        """Kept, and raised by `run`: here and now the product might catch it."""
        self.bucket.violations.append(Violation(kind, text))
        self.scheduler.noted = True

    def run(self, until: Callable[[], bool], seconds: float) -> bool:
        """Run until a condition holds, for at most so long; whether it does. Raises Violation."""
        violations = self.bucket.violations
        Now.scheduler = self.scheduler
        self.scheduler.run(lambda: bool(violations) or until(), self.scheduler.now + seconds)
        if violations:
            raise violations[0]
        return until()

    @contextmanager
    def bounded(self, what: str, seconds: float) -> Iterator[None]:
        """A call of the process whose turn it is, which must end within so many seconds and a margin."""
        process, stopped_before, done = here(), here().stopped_for, [False]

        def look(until: float) -> None:
            if done[0] or not process.alive:
                return
            if process.stopped:
                self.scheduler.later(None, 30.0, look, until)
                return
            excused = process.stopped_for - stopped_before
            if self.scheduler.now < until + excused:
                self.scheduler.later(None, until + excused - self.scheduler.now + 0.01, look, until)
                return
            self.violate("endless", f"{process}: {what} has not ended within {seconds + MARGIN:.0f} s\n{self.waits()}")

        timer = self.scheduler.later(None, seconds + MARGIN, look, self.scheduler.now + seconds + MARGIN)
        try:
            yield
        finally:
            done[0] = True
            timer.cancel()

    def close(self) -> None:
        """End all processes and let go of what they hold."""
        for process in self.processes:
            process.kill()
        while self.scheduler.urgent:
            self.scheduler.urgent.pop(0)()
        for process in self.processes:
            process.at_end.clear()

    def forget(self) -> None:
        """Let go of everything, so that little is left for the garbage collector. The story is gone as well."""
        self.close()
        processes = self.processes
        for part in (*processes, self.bucket, self.network, self.checks, self.scheduler, self):
            vars(part).clear()
        for process in processes:
            process.alive = False  # that much is still asked

    # -- for people --

    def waits(self) -> str:
        """Say who waits for whom."""
        lines = [line for process in self.processes if process.alive for line in process.waits()]
        return "\n".join(f"  {line}" for line in lines) or "  nobody waits"

    def story(self) -> Iterator[str]:
        """One line an event."""
        for time, who, what in self._story:
            yield f"{time:10.4f}  {who:16} {what}"

    @property
    def digest(self) -> str:
        """A digest of the whole story: two runs of one seed have the same."""
        digest = hashlib.sha256()
        for line in self.story():
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()

    def counted(self) -> dict[str, Any]:
        return dict(self.counts)
