"""Reports whose parts are changed after they were made."""

from __future__ import annotations

from holdfast_protos.v1 import coordinator_pb2 as pb


def counted(chunks: list[pb.ReportChunk]) -> list[pb.ReportChunk]:
    """The report after a change of what follows its head."""
    head = chunks[0].head
    head.objects, head.entries = (sum(len(getattr(c, name)) for c in chunks[1:]) for name in ("objects", "entries"))
    head.bytes = sum(chunk.ByteSize() for chunk in chunks[1:])
    return chunks
