"""Who reads which objects of a checkpoint back.

A reader is the better the less it has to do with what it reads: what a worker has just written may come to it from its
own memory. So the objects of each worker go round among the others. But a checkpoint is spread as its state is, and
under parameter servers the chief holds next to nothing and must not have to read what others hold. So nobody reads much
more than it wrote itself. Where that leaves nobody else, the writer reads its own.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from holdfast_storage.cluster import Task

MOST_TIMES = 4
"""How many times as much as it has written itself a worker reads of others."""

ANYBODY = 1 << 20
"""The bytes that anybody reads of others, although it may have written nothing."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a checkpoint."""

    name: str  # relative to the checkpoint's folder
    size: int  # bytes
    writer: Task


def written(objects: Iterable[StoredObject]) -> dict[Task, int]:
    """Return the bytes that each has written."""
    total: dict[Task, int] = {}
    for each in objects:
        total[each.writer] = total.get(each.writer, 0) + each.size
    return total


def deal(
    objects: Iterable[StoredObject], readers: Collection[Task], wrote: Mapping[Task, int], load: Mapping[Task, int]
) -> dict[Task, list[StoredObject]]:
    """Return what each reader should read, the largest first. What is in nobody's share can be read by none of them.

    wrote: the bytes of the checkpoint that each has written.
    load: the bytes that each has been asked to read already.
    """
    ring = sorted(readers)
    shares: dict[Task, list[StoredObject]] = {task: [] for task in ring}
    loads = {task: load.get(task, 0) for task in ring}
    room = {task: max(MOST_TIMES * wrote.get(task, 0), ANYBODY) for task in ring}
    following: dict[Task, int] = {}  # where in the ring the next object of a writer goes
    for each in sorted(objects, key=lambda o: (-o.size, o.name)):
        if each.writer not in following:
            following[each.writer] = bisect(ring, each.writer)
        begin = following[each.writer]
        reader = each.writer if each.writer in shares else None
        for place in range(begin, begin + len(ring)):
            task = ring[place % len(ring)]
            if task != each.writer and loads[task] + each.size <= room[task]:
                reader, following[each.writer] = task, place + 1
                break
        if reader is not None:
            shares[reader].append(each)
            loads[reader] += each.size
    return shares
