"""What a run on each storage needs: its places, its memory, and who is started how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from benchmarks import environment, peers
from benchmarks.cases import Case
from benchmarks.contestants import FILES, OBJECTS, Field, create
from benchmarks.process import ContestantProcess
from benchmarks.race import Race
from benchmarks.results import Results

_PROCESS = 700 << 20
"""Bytes of a process with TensorFlow."""

Say = Callable[[str], None]


class Storage(Protocol):
    """The storage to which the states are saved."""

    @property
    def contestants(self) -> Field: ...

    @property
    def absent(self) -> Mapping[str, str]:
        """Return who cannot run here, and why."""
        ...

    @property
    def media(self) -> Mapping[str, str]:
        """Return the media on which a case is run, by name, in words."""
        ...

    def problem(self) -> str | None:
        """Why there can be no run here."""
        ...

    def memory(self, case: Case) -> int:
        """Return about how many bytes a case takes."""
        ...

    def run(self, results: Results, say: Say) -> None:
        """All races."""
        ...


class Files:
    """Folders on file systems, by the name of the medium."""

    contestants = FILES
    absent: Mapping[str, str] = {}

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders

    @property
    def media(self) -> Mapping[str, str]:
        """Return the kind of each medium."""
        return {name: environment.file_system(path) for name, path in self._folders.items()}

    def problem(self) -> str | None:
        return next((f"{path} is not a folder" for path in self._folders.values() if not path.is_dir()), None)

    def memory(self, case: Case) -> int:
        # Each contestant's process: TensorFlow itself, the state, and gradients or a copy that it keeps; besides, four
        # saves of the one whose turn it is, on tmpfs.
        count = len(self.contestants.labels)
        return case.state_bytes * (2 * count + 4) + count * _PROCESS

    def run(self, results: Results, say: Say) -> None:
        with ExitStack() as stack:
            # Removed at the end whatever happens, also what a process that was killed has left.
            scratch = {
                name: Path(stack.enter_context(TemporaryDirectory(prefix="holdfast-bench-", dir=path)))
                for name, path in self._folders.items()
            }
            for case in results.cases:
                Race(case, scratch, results, partial(_in_process, case), say).run()


class Objects:
    """An S3 server that is started for the run, with worlds of several sizes.

    pause: seconds for which the server is left alone between two turns.
    """

    contestants = OBJECTS
    worlds: Mapping[str, int] = {"1 worker": 1, "2 workers": 2}

    def __init__(self, pause: float) -> None:
        from benchmarks.server import DESCRIPTION

        self._pause = pause
        self.media = dict.fromkeys(self.worlds, DESCRIPTION)
        self.absent = {} if peers.installed() else peers.MISSING

    def problem(self) -> str | None:
        from benchmarks.server import Server

        missing = Server.missing()
        return f"{missing} not installed: `make servers` does it" if missing else None

    def memory(self, case: Case) -> int:
        # Only who is in a turn has the state, and while it restores perhaps two copies more; the store has it twice.
        workers = max(self.worlds.values())
        return case.state_bytes * (3 * workers + 3) + workers * len(self.contestants.labels) * _PROCESS // 2

    def run(self, results: Results, say: Say) -> None:
        from benchmarks.server import Server
        from benchmarks.team import Team

        server = Server(self._pause)
        try:
            for case in results.cases:
                for medium, workers in self.worlds.items():
                    start = partial(Team, case=case, workers=workers)
                    Race(case, {medium: server}, results, start, say).run()
        finally:
            server.stop()


def memory_needed(storage: Storage, cases: Sequence[Case]) -> int:
    """Return the bytes that the most expensive case takes."""
    return max(storage.memory(case) for case in cases)


def _in_process(case: Case, name: str) -> ContestantProcess:
    return ContestantProcess(partial(_turn, case, name))


def _turn(case: Case, name: str) -> Any:
    from benchmarks.training import Training
    from benchmarks.turn import Turn

    return Turn(create(FILES.name, name, Training(case)))
