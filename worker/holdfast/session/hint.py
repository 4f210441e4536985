"""The hint where an embedded coordinator listens. The chief writes it; it counts only if somebody answers there."""

from __future__ import annotations

import json
from dataclasses import dataclass

from holdfast_storage.cluster import Cluster
from holdfast_storage.layout import HINT
from holdfast_storage.store.base import Store, TooLarge

LARGEST = 16 << 20
"""The most bytes of a hint."""


@dataclass(frozen=True, slots=True)
class Hint:
    address: str
    cluster: Cluster

    def write(self, store: Store) -> None:
        fields = {"address": self.address, "cluster": {job: list(hosts) for job, hosts in self.cluster}}
        store.replace(HINT, json.dumps(fields).encode() + b"\n")


def read_hint(store: Store) -> Hint | None:
    """Read the hint. Return None if there is none, or none that can be understood."""
    try:
        fields = json.loads(store.read(HINT, limit=LARGEST))
        cluster = tuple(sorted((job, tuple(hosts)) for job, hosts in fields["cluster"].items()))
        return Hint(str(fields["address"]), cluster)
    except (FileNotFoundError, TooLarge, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
