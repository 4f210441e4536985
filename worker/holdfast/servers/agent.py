"""What answers the chief in the process of a parameter server.

A call names what is to be done. `CALLS` says which function does it. It returns at once: whatever waits, for the
storage or for others, is done on the lane of the member that it is about. A new call needs a line here, and a function.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from holdfast.keep import Policy
from holdfast.saving.provenance import versions
from holdfast.saving.save import Terms
from holdfast.servers.member import Enlisting, Member
from holdfast.servers.restoring import fetch, is_restored, restore, settle
from holdfast.servers.saving import assign, save
from holdfast.session.identity import process_id
from holdfast_storage.cluster import Task
from holdfast_storage.errors import HoldfastError, InvalidRequest
from holdfast_storage.failure import Failure
from holdfast_storage.failure_message import encode
from holdfast_storage.logger import logger

log = logger("holdfast")

GONE_AFTER = 20.0
"""Seconds without its coordinator after which a world is left, if another chief has come since."""

WATCH_EVERY = 2.0

LEAVES_WITHIN = 60.0
"""Seconds for which a server that is to end goes on with the save in flight."""

ENDS_WITHIN = 1.0
"""Seconds of a host's last ones that are left for the end of the process."""

LOOK_EVERY = 0.1

Arrays = Sequence[Any]

CALLS: Mapping[str, Callable[..., Any]] = {
    "assign": assign,
    "save": save,
    "restore": restore,
    "is_restored": is_restored,
    "settle": settle,
}
"""Calls about one member: `call(member, arrays, **fields)`. What it returns goes back as JSON."""

FETCHES: Mapping[str, Callable[..., Sequence[Any]]] = {"fetch": fetch}
"""The same, for calls whose results are tensors."""


class Agent:
    """The agent of one server.

    Args:
        index: the server's, among the cluster's.
        storage_options: as in `CheckpointManager`.
    """

    def __init__(self, index: int, storage_options: Mapping[str, Any] | None) -> None:
        self.task = Task("ps", index)
        self._options = storage_options
        self._members: dict[str, Member] = {}  # by manager, in order of enlisting
        self._ends = False
        self._lock = threading.Lock()

    def answer(self, request: Any, *arrays: Any) -> Any:
        """Do what the chief asks for. Errors are told in the answer, by which the chief knows them again."""
        fields = json.loads(bytes(request))
        do = fields.pop("do")
        if do in FETCHES:
            return FETCHES[do](self._member(fields.pop("manager")), arrays, **fields)
        try:
            return json.dumps({"done": self._do(do, arrays, fields)}).encode()
        except Exception as error:
            if not isinstance(error, HoldfastError):
                log.exception("%s: %s failed", self.task, do)
            message = str(error) if str(self.task) in str(error) else f"{self.task}: {error}"
            failure = encode(Failure.of(error, message))
            return json.dumps({"failure": failure.SerializeToString().hex()}).encode()

    def _do(self, do: str, arrays: Arrays, fields: dict[str, Any]) -> Any:
        if do == "hello":
            return process_id()
        manager = fields.pop("manager")
        if do == "enlist":
            return self._enlist(manager, **fields)
        if do == "leave":
            return self._leave(manager)
        member = self._member(manager)
        if do == "stand":  # whether it has opened the storage
            member.check()
            return member.opened.is_known
        return CALLS[do](member, arrays, **fields)

    def _member(self, manager: str) -> Member:
        member = self._members.get(manager)
        if member is None and self._ends:
            raise self._ending()
        if member is None:
            raise InvalidRequest(
                f"{self.task} does not know this chief: it was started again since, and its variables are gone, or "
                "works with a newer chief. Start the chief again, which restores the newest checkpoint",
                workers=[str(self.task)],
            )
        return member

    def _enlist(self, manager: str, version: str, **said: Any) -> None:
        if version != versions()["holdfast"]:
            raise InvalidRequest(
                f"{self.task} runs Holdfast {versions()['holdfast']}, and the chief {version}: give all tasks the same",
                workers=[str(self.task)],
            )
        self._take_on(manager, **said)

    def _take_on(self, manager: str, cluster: Sequence[Any], terms: Mapping[str, Any], **said: Any) -> None:
        hosts = tuple((job, tuple(addresses)) for job, addresses in cluster)
        with self._lock:
            if self._ends:
                raise self._ending()
            known = self._members.get(manager)
            if known is not None:
                if not known.has_failed:
                    return
                known.leave(at_once=True)  # the chief tries again, since somebody may have mended what was wrong
            enlisting = Enlisting(cluster=hosts, terms=Terms(keep=Policy(), **terms), **said)
            self._members[manager] = Member(self.task, enlisting, self._options)

    def _leave(self, manager: str) -> None:
        with self._lock:
            member = self._members.pop(manager, None)
        if member is not None:
            member.leave()

    def _waits_for(self, member: Member) -> bool:
        return not member.has_saved and member in list(self._members.values())

    def _ending(self) -> InvalidRequest:
        return InvalidRequest(f"{self.task} was told to end (SIGTERM)", workers=[str(self.task)])

    def watch(self) -> None:
        """Leave worlds that are over, for ever. Not because another chief calls: that may be an older one, which does
        not know that it was replaced. Nor the worlds of a chief for another world of its own."""
        while True:
            time.sleep(WATCH_EVERY)
            self._leave_what_is_over()

    def _leave_what_is_over(self) -> None:
        with self._lock:
            members = list(self._members.items())
            for manager, member in members[:-1]:
                newest = members[-1][0]
                if member.is_over(GONE_AFTER if _chief_of(manager) != _chief_of(newest) else math.inf):
                    log.info("%s leaves the world of %s: another chief has come since", self.task, manager)
                    del self._members[manager]
                    member.leave(at_once=True)

    def end(self) -> None:
        """Finish the saves in flight, and leave all worlds. Before that, have all save, if the chief's program saves at
        notice of a preemption, for as long as this host has left."""
        with self._lock:
            noticed = [(member, member.give_notice()) for member in self._members.values()]
        until = time.monotonic() + max((grace for _, grace in noticed), default=0.0) - ENDS_WITHIN
        waited_for = [member for member, grace in noticed if grace]
        while time.monotonic() < until and any(self._waits_for(member) for member in waited_for):
            time.sleep(LOOK_EVERY)
        with self._lock:
            self._ends = True
            members, self._members = self._members, {}
        until = time.monotonic() + LEAVES_WITHIN
        newest = _chief_of(next(reversed(members))) if members else ""
        # A save whose chief is gone with its coordinator would keep the host for nothing.
        over = [
            member.leave(at_once=_chief_of(manager) != newest and member.is_over(0.0))
            for manager, member in members.items()
        ]
        for each in over:
            each.wait(max(0.0, until - time.monotonic()))


def _chief_of(manager: str) -> str:
    """Return the process of a manager, which is the n-th of it: `process.n`."""
    return manager.rpartition(".")[0]
