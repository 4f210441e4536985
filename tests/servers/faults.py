"""What can go wrong with one call to an object store, and plans that say with which."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Call:
    """One HTTP request, as it arrives.

    number: how many came before.
    target: path and query, as they were sent.
    """

    number: int
    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        """The path, decoded. On S3 it is `/bucket/key`."""
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    @property
    def is_create(self) -> bool:
        """Whether the call makes an object on the condition that there is none."""
        return self.headers.get("If-None-Match") == "*" or self.query.get("ifGenerationMatch") == ["0"]

    @property
    def writes(self) -> bool:
        """Whether the call changes anything, or might."""
        return self.method not in ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Answer:
    """The answer is an error, in the store's own words. The server does not see the call."""

    status: int = 503


@dataclass(frozen=True)
class CutRequest:
    """The connection ends in the middle of the request's body, of which the server sees the first half."""


@dataclass(frozen=True)
class CutReply:
    """The server acts. The connection ends in the middle of its reply's body."""


@dataclass(frozen=True)
class LoseReply:
    """The server acts. The connection ends without a reply."""


@dataclass(frozen=True)
class Stall:
    """Nothing happens for a while; then the call goes on."""

    seconds: float


@dataclass(frozen=True)
class Throttle:
    """The bodies of the request and of the reply pass at this rate."""

    bytes_per_second: float


Fault = Answer | CutRequest | CutReply | LoseReply | Stall | Throttle
Plan = Callable[[Call], Fault | None]


def no_faults(_: Call) -> None:
    """The plan in which nothing goes wrong."""


def at_random(seed: int, rates: Mapping[Fault, float], among: Callable[[Call], bool] = lambda _: True) -> Plan:
    """Each fault at so many of the calls that there are to choose among, as seed and number of the call decide."""

    def plan(call: Call) -> Fault | None:
        if not among(call):
            return None
        drawn = random.Random(f"{seed}/{call.number}").random()
        for fault, rate in rates.items():
            drawn -= rate
            if drawn < 0:
                return fault
        return None

    return plan


def in_turn(matches: Callable[[Call], bool], *faults: Fault | None) -> Plan:
    """These faults, one each, for the first calls that match."""
    left = list(faults)
    return lambda call: left.pop(0) if left and matches(call) else None
