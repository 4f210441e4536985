"""The hint where an embedded coordinator listens. The chief writes it; it counts only if somebody answers there."""

from __future__ import annotations

import json
from dataclasses import dataclass

from holdfast_storage import kinds, spec
from holdfast_storage.cluster import Cluster
from holdfast_storage.layout import HINT
from holdfast_storage.store.base import Store, TooLarge

LARGEST = 16 << 20
"""The most bytes of a hint."""

_HINT = spec.fields({"address": kinds.ADDRESS, "cluster": kinds.CLUSTER})


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
        content = spec.load(store.read(HINT, limit=LARGEST))
        _HINT(content)
    except (FileNotFoundError, TooLarge, ValueError):
        return None
    cluster = tuple(sorted((job, tuple(hosts)) for job, hosts in content["cluster"].items()))
    return Hint(content["address"], cluster)
