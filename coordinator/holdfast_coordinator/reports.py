"""A worker's report of a save, as it comes in."""

from __future__ import annotations

from collections.abc import AsyncIterator

from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.errors import InvalidRequest

from . import checks
from .finalize import Payload


async def received(first: pb.ReportChunk, chunks: AsyncIterator[pb.ReportChunk]) -> Payload:
    """Return what follows the first message of a report, which has its head and nothing else.

    Raises InvalidRequest as soon as more comes than the head has said, and if less does.
    """
    head = first.head
    payload = Payload(head.num_shards, head.description_json)
    told = head.objects, head.entries, head.bytes
    came = 0, 0, 0
    while all(c <= t for c, t in zip(came, told, strict=True)):
        chunk = await anext(chunks, None)
        if chunk is None:
            break
        payload.objects.extend(chunk.objects)
        payload.entries.extend(chunk.entries)
        came = came[0] + len(chunk.objects), came[1] + len(chunk.entries), came[2] + chunk.ByteSize()
    if came != told or first.objects or first.entries:
        raise InvalidRequest(
            f"{head.caller.task} says that its report has {_words(told)}, and it has {_words(came)}",
            workers=[head.caller.task],
            phase="write",
        )
    checks.check_objects(head.caller.task, payload.objects)
    return payload


def _words(counts: tuple[int, int, int]) -> str:
    return "{:,} objects and {:,} entries in {:,} bytes".format(*counts)
