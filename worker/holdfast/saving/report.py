"""What a worker sends of a save, in messages of a bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from holdfast.saving.plan import Spec
from holdfast_protos.conventions import LARGEST_DESCRIPTION, LARGEST_SPECS, MOST_SPECS, MOST_TENSORS, REPORT_CHUNK
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.errors import InvalidRequest


def check_votable(tensors: int) -> None:
    """Raise InvalidRequest for a state that has more tensors than can be voted on."""
    if tensors > MOST_TENSORS:
        raise InvalidRequest(
            f"this checkpoint has {tensors:,} tensors, and at most {MOST_TENSORS:,} can be saved: give it fewer and "
            "larger variables",
            phase="vote",
        )


def first_specs(specs: Sequence[Spec]) -> bytes:
    """Return the specs of as many tensors as a vote may have, in key order, as TensorSpecs."""
    message, size = pb.TensorSpecs(), 0
    for spec in specs[:MOST_SPECS]:
        next_ = pb.TensorSpec(key=spec.key, dtype=spec.dtype, shape=spec.shape)
        size += next_.ByteSize() + _AROUND
        if size > LARGEST_SPECS:
            break
        message.specs.append(next_)
    return message.SerializeToString()


_AROUND = 8
"""Bytes that a message takes at most, beside its own, where it is a part of another one."""


def report_chunks(
    head: pb.ReportHead, objects: Iterable[pb.StoredObject], entries: Iterable[pb.IndexEntry]
) -> list[pb.ReportChunk]:
    """Return a report: `head`, which is told what follows, and messages of about a MiB.

    Raises InvalidRequest if what the chief tells of its save is too long.
    """
    if len(head.description_json) > LARGEST_DESCRIPTION // 4:  # characters, of up to four bytes
        described = len(head.description_json.encode())
        if described > LARGEST_DESCRIPTION:
            raise InvalidRequest(
                f"metadata, metrics and the names of the worker-local tensors take {described:,} bytes; at most "
                f"{LARGEST_DESCRIPTION:,} are possible",
                phase="write",
            )
    rest, size = [pb.ReportChunk()], 0
    parts: list[pb.StoredObject | pb.IndexEntry] = [*objects, *entries]
    for each in parts:
        if size >= REPORT_CHUNK:
            rest.append(pb.ReportChunk())
            size = 0
        size += each.ByteSize() + _AROUND
        if isinstance(each, pb.StoredObject):
            rest[-1].objects.append(each)
        else:
            rest[-1].entries.append(each)
    head.objects, head.entries = sum(len(c.objects) for c in rest), sum(len(c.entries) for c in rest)
    head.bytes = sum(chunk.ByteSize() for chunk in rest)
    return [pb.ReportChunk(head=head), *rest]
