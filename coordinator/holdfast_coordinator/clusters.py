"""The clusters that the workers of a run are in, by digest."""

from __future__ import annotations

import asyncio
from typing import Any

from holdfast_storage.cluster import Cluster

GIVEN_WITHIN = 3.0
"""Seconds within which a worker that was asked for its cluster gives it, before another one is asked."""

KEPT = 8
"""The number of clusters that are kept, and of those that are asked for: a run has one, or two that differ."""


class Clusters:
    """The clusters of a run, each of which one worker describes, however many are in it.

    Every worker names its cluster by digest. The first that names an unknown one is asked for it, and the others wait.
    So the same object stands for the same cluster, and comparing two does not look into them.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, Cluster] = {}
        self._asked: dict[bytes, asyncio.Future[None]] = {}

    def learn(self, digest: bytes, cluster: Cluster) -> None:
        """Take the cluster that a worker has described."""
        if digest not in self._known:
            self._known[digest] = cluster
            _limit(self._known)
        if (asked := self._asked.pop(digest, None)) and not asked.done():
            asked.set_result(None)

    async def find(self, digest: bytes) -> Cluster | None:
        """Return the cluster of a digest, after a wait if another worker was asked for it. None: ask this one."""
        while digest not in self._known:
            asked = self._asked.get(digest)
            if asked is not None and (await asyncio.wait([asked], timeout=GIVEN_WITHIN))[0]:
                continue
            if self._asked.get(digest) is asked:  # otherwise somebody else was asked meanwhile
                self._asked[digest] = asyncio.get_running_loop().create_future()
                _limit(self._asked)
                return None
        return self._known[digest]


def _limit(kept: dict[bytes, Any]) -> None:
    if len(kept) > KEPT:
        del kept[next(iter(kept))]
