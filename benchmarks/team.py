"""A contestant on an object store: its workers, each in a process, which save and restore together when told to.

The figures of a turn:

durable         from telling all workers to save until the last one has said that its part is acknowledged and counts.
restore         likewise: from empty hands until all workers have all of the state.
save_cpu, restore_cpu
                processor time of all workers meanwhile.
save_server, restore_server
                that of the store, on the same processors.
save_bytes, restore_bytes
                the most memory that a worker takes meanwhile, beside what it had when there was nothing but the state.
                Once per process, as in `turn.py`.
"""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.cases import Case
from benchmarks.contestants import OBJECTS
from benchmarks.member import Member
from benchmarks.process import ContestantProcess, answers
from benchmarks.server import Server


class Team:
    """All workers of one contestant."""

    def __init__(self, name: str, case: Case, workers: int) -> None:
        addresses = _free_addresses(workers)
        self._processes = [
            ContestantProcess(partial(Member, OBJECTS.name, name, case, rank, addresses)) for rank in range(workers)
        ]

    def take_turn(self, server: Server, number: int) -> dict[str, float]:
        """The figures of one turn, in a fresh place, after which the store is empty and at rest. TurnFailed."""
        del number
        location = server.location()
        try:
            self._all("open", location.url, dict(location.storage_options))
            figures = self._measured(server, "save", "durable")
            self._all("forget")
            figures |= self._measured(server, "restore", "restore")
            self._all("check")
            self._all("close")
        finally:
            server.clear(location)
        return figures

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.stop()

    def _measured(self, server: Server, method: str, figure: str) -> dict[str, float]:
        busy, begin = server.processor_time(), time.perf_counter()
        theirs = self._all(method)
        figures = {figure: time.perf_counter() - begin, f"{method}_server": server.processor_time() - busy}
        figures[f"{method}_cpu"] = sum(each[f"{method}_cpu"] for each in theirs)
        if f"{method}_bytes" in theirs[0]:
            figures[f"{method}_bytes"] = max(each[f"{method}_bytes"] for each in theirs)
        return figures

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        for process in self._processes:
            process.tell(method, *arguments)
        return answers(self._processes)


def _free_addresses(count: int) -> list[str]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
