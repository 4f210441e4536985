"""What goes wrong, and when: asked at every call of the storage and at every message of the network.

The machinery knows no faults of its own. A `Policy` is asked at each numbered *point*, before anything of it has
happened, and says how it goes; and it is told when a point has had its effect. It may as well kill or stop processes.
`Policy` itself lets all go well.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from simulation.processes import Process

Kind = Literal["storage", "request", "reply"]


class Point(NamedTuple):
    """One call of the storage, or one message of an RPC."""

    number: int  # in the order in which they happen, from 1
    kind: Kind
    process: Process  # whose call, or who sends the message
    verb: str  # of the storage, or the RPC
    what: str  # name of the object, or the address

    def __str__(self) -> str:
        return f"{self.number}. {self.process} {self.kind} {self.verb} {self.what}"


StorageEffect = Literal[
    "done",
    "fail",  # no effect, and an error that does not say so
    "refuse",  # no effect, and an error that says so (`create` alone; others fail)
    "lose",  # the effect, but an error instead of the answer
    "late",  # an error now, and the effect at some later time
    "rot",  # the effect, but a bit of what lies there is not as it was written
]


class StorageFate(NamedTuple):
    """The fate of a call of the storage."""

    effect: StorageEffect = "done"
    before: float = 0.0  # seconds until the effect
    after: float = 0.0  # and from there to the answer
    late_by: float = 0.0  # of "late": seconds until it lands
    unseen: float = 0.0  # where nothing is found: seconds for which this host goes on finding nothing
    behind: float = 0.0  # seconds for which this host does not see what another has made
    lag: float = 0.0  # of a listing: seconds by which it is behind


MessageEffect = Literal[
    "passed",
    "cut",  # the connection breaks, and the message is lost
    "passed_and_cut",  # it arrives, and then the connection breaks
    "doubled",  # a request that arrives twice; only the first one's reply goes back
    "silence",  # it is lost, and so is all that follows on the connection, until both sides notice
    "refused",  # of a reply: the handler failed, after its effect
]


class MessageFate(NamedTuple):
    """The fate of a message."""

    effect: MessageEffect = "passed"
    delay: float = 0.0


Stage = Literal[
    "amid",  # a part of what is written is there, or of what is deleted is gone
    "done",  # the effect has come about, and its caller does not know it yet; of a message: it has arrived
]


class Policy:
    """All goes well, at once."""

    def storage(self, point: Point) -> StorageFate:
        return StorageFate()

    def message(self, point: Point) -> MessageFate:
        return MessageFate()

    def connects(self, client: Process, address: str) -> float | None:
        """Return the seconds that connecting takes, or None if it is impossible now."""
        return 0.0

    def starts_thread(self, process: Process) -> bool:
        """Return whether a process may have one more thread."""
        return True

    def reached(self, point: Point, stage: Stage) -> None:
        """So far it has come."""
