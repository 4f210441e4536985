"""Reports and specs in messages of a bounded size."""

from __future__ import annotations

import pytest

from holdfast.saving.plan import Spec
from holdfast.saving.report import check_votable, first_specs, report_chunks
from holdfast_protos.conventions import (
    LARGEST_DESCRIPTION,
    LARGEST_REQUEST,
    LARGEST_SPECS,
    MOST_SPECS,
    MOST_TENSORS,
    REPORT_CHUNK,
)
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.errors import InvalidRequest


def specs(message: bytes) -> list[pb.TensorSpec]:
    return list(pb.TensorSpecs.FromString(message).specs)


@pytest.mark.parametrize(("count", "size"), [(1, 10), (3_000, 1_000), (50_000, 60), (4, 900_000)])
def test_a_report_is_cut_by_bytes(count: int, size: int) -> None:
    """Messages have a MiB, and one more entry at most; together they are what the head says. Guards against a message
    that is refused because its entries are long."""
    entries = [pb.IndexEntry(key=b"k%d" % n, record=bytes(size)) for n in range(count)]
    objects = [pb.StoredObject(name="data", size=1, role="data")]
    first, *rest = report_chunks(pb.ReportHead(), objects, entries)
    assert [entry.key for chunk in rest for entry in chunk.entries] == [entry.key for entry in entries]
    assert [each.name for chunk in rest for each in chunk.objects] == ["data"]
    assert (first.head.objects, first.head.entries) == (1, count)
    assert first.head.bytes == sum(chunk.ByteSize() for chunk in rest)
    assert not first.objects
    assert not first.entries
    assert max(chunk.ByteSize() for chunk in rest) <= REPORT_CHUNK + size + 100 < LARGEST_REQUEST["Report"]


def test_a_description_that_is_too_long() -> None:
    """It is an error that says so, before anything is sent. Guards against a report that is refused for its size."""
    report_chunks(pb.ReportHead(description_json="\u00e9" * (LARGEST_DESCRIPTION // 2)), [], [])
    with pytest.raises(InvalidRequest, match="metadata, metrics and the names of the worker-local tensors take"):
        report_chunks(pb.ReportHead(description_json="\u00e9" * (LARGEST_DESCRIPTION // 2 + 1)), [], [])


def test_more_tensors_than_can_be_voted_on() -> None:
    """A state of too many tensors is an error that says so. Guards against a vote that no coordinator takes."""
    check_votable(MOST_TENSORS)
    with pytest.raises(InvalidRequest, match="has 1,000,001 tensors"):
        check_votable(MOST_TENSORS + 1)


def test_the_first_specs() -> None:
    """A vote has the specs of the first tensors, as many as fit. Guards against a vote of a large model that is refused
    where two models differ."""
    few = [Spec(f"key-{n}", 1, (2, 3), 24) for n in range(10)]
    assert [spec.key for spec in specs(first_specs(few))] == [spec.key for spec in few]
    many = [Spec(f"{n:07d}", 1, (2, 3), 24) for n in range(30_000)]
    assert len(specs(first_specs(many))) == MOST_SPECS
    long = [Spec(f"{n:0500d}", 1, (2, 3), 24) for n in range(10_000)]
    message = first_specs(long)
    assert LARGEST_SPECS // 2 < len(message) <= LARGEST_SPECS
    assert [spec.key for spec in specs(message)] == [spec.key for spec in long[: len(specs(message))]]
