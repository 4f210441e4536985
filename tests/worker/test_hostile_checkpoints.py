"""Checkpoints with which TensorFlow would ask for terabytes, read beyond the end, or follow a graph that leads nowhere.

All their checksums hold. What else may stand in an index is in `test_hostile_fields.py`, without TensorFlow.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from holdfast.restoring.apply import apply
from holdfast.restoring.large_tensors import Values
from holdfast.restoring.staging import stage
from holdfast.tensorflow_internals import object_graph
from holdfast_protos.v1.bundle_pb2 import BundleEntry
from holdfast_storage.bundle.crc import crc32c, mask
from holdfast_storage.bundle.encoded import entry_crc32c
from holdfast_storage.bundle.table import read_table, write_table
from holdfast_storage.checkpoint.verify import verify_checkpoint
from holdfast_storage.errors import CheckpointDamaged
from holdfast_storage.layout import OBJECT_GRAPH_KEY
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store import Store, open_store
from support.checkpoints import WORKERS, commit

pytestmark = pytest.mark.tensorflow

V, GRAPH = "v/.ATTRIBUTES/VARIABLE_VALUE", OBJECT_GRAPH_KEY

Entries = dict[str, BundleEntry]
Change = Callable[[Entries, bytearray], None]


def committed(store: Store, folder: Path, change: Change) -> CheckpointRecord:
    """A checkpoint of one variable, with something changed in index and data, committed to a run."""
    stock = tf.train.Checkpoint(v=tf.Variable([1.0, 2.0])).save(str(folder / "ckpt"))
    index, shard = Path(f"{stock}.index"), Path(f"{stock}.data-00000-of-00001")
    pairs = dict(read_table(index.read_bytes()))
    header = pairs.pop(b"")
    entries = {key.decode(): BundleEntry.FromString(value) for key, value in pairs.items()}
    data = bytearray(shard.read_bytes())
    change(entries, data)
    items = sorted((key.encode(), entry.SerializeToString()) for key, entry in entries.items())
    index.write_bytes(write_table([(b"", header), *items]))
    shard.write_bytes(data)
    return commit(store, stock)


def floats(count: int) -> Change:
    def change(entries: Entries, data: bytearray) -> None:
        entries[V].shape.dim[0].size, entries[V].size = count, 4 * count

    return change


def put_graph(text: bytes, entries: Entries, data: bytearray) -> None:
    length = bytes([len(text) & 0x7F | 0x80, len(text) >> 7])
    stored = length + struct.pack("<I", mask(crc32c(struct.pack("<I", len(text))))) + text
    found = entries[GRAPH]
    found.offset, found.size, found.crc32c = len(data), len(stored), entry_crc32c(7, (), [stored])
    data += stored


def graph(change: Callable[[Any], None]) -> Change:
    """A change of the object graph."""

    def changed(entries: Entries, data: bytearray) -> None:
        found = entries[GRAPH]
        text = bytes(data[found.offset : found.offset + found.size])
        # The length in one or two bytes, and its checksum in four, come before the text.
        proto = object_graph(text[5 + (text[0] >= 0x80) :])
        change(proto)
        put_graph(proto.SerializeToString(), entries, data)

    return changed


def lengths(entries: Entries, data: bytearray) -> None:
    at = entries[GRAPH].offset
    data[at : at + 9] = b"\xff\xff\xff\xff\xff\xff\xff\x7f\x00"


STAGED: dict[str, tuple[Change, str]] = {
    "tera": (floats(1 << 40), "leads to byte|shares bytes"),
    "giga": (floats(1 << 33), "leads to byte|shares bytes"),
    "beyond": (floats(1 << 20), "leads to byte|shares bytes"),
    "offset": (lambda entries, data: setattr(entries[V], "offset", 1 << 60), "leads to byte"),
    "strlen": (lengths, "lengths|end"),
    "graph": (lambda entries, data: setattr(entries[GRAPH], "crc32c", 1), "is not what its entry"),
}
APPLIED: dict[str, tuple[Change, str]] = {
    "noise": (lambda entries, data: put_graph(b"\xff" * 200, entries, data), "cannot be read"),
    "no nodes": (graph(lambda proto: proto.ClearField("nodes")), "leads to nodes 0 to 0, and has 0"),
    "a child beyond": (graph(lambda proto: setattr(proto.nodes[0].children[0], "node_id", 1 << 30)), "leads to nodes"),
    "a child before": (graph(lambda proto: setattr(proto.nodes[0].children[0], "node_id", -5)), "leads to nodes -5"),
    "a slot beyond": (
        graph(lambda proto: proto.nodes[0].slot_variables.add(slot_variable_node_id=99).SetInParent()),
        "leads to nodes 0 to 99",
    ),
}


@pytest.mark.parametrize(("change", "told"), STAGED.values(), ids=STAGED)
def test_what_tensorflow_cannot_read_is_refused(tmp_path: Path, change: Change, told: str) -> None:
    """A checkpoint that TensorFlow cannot read is damaged for `verify` and for a worker. Guards against a process that
    TensorFlow ends, or that asks for all memory, in the middle of a restore."""
    store = open_store(tmp_path / "run")
    record = committed(store, tmp_path / "stock", change)
    assert verify_checkpoint(store, record).verdict == "damaged"
    with pytest.raises(CheckpointDamaged, match=told):
        stage(store, record, task=WORKERS[0], world=WORKERS, values=Values)


@pytest.mark.parametrize(("change", "told"), APPLIED.values(), ids=APPLIED)
def test_a_graph_that_leads_nowhere(tmp_path: Path, change: Change, told: str) -> None:
    """An object graph that leads nowhere is damage, before anything has changed. Guards against an IndexError out of
    TensorFlow, with half of the variables restored."""
    store = open_store(tmp_path / "run")
    record = committed(store, tmp_path / "stock", change)
    v = tf.Variable([9.0, 9.0])
    with (
        stage(store, record, task=WORKERS[0], world=WORKERS, values=Values) as staged,
        pytest.raises(CheckpointDamaged, match=told),
    ):
        apply(tf.train.Checkpoint(v=v), None, staged)
    assert np.all(v.numpy() == 9.0)


def test_what_nobody_changed_is_restored(tmp_path: Path) -> None:
    """Without a change, the checkpoint is restored. Guards against rows that are refused for another reason."""
    store = open_store(tmp_path / "run")
    record = committed(store, tmp_path / "stock", graph(lambda proto: None))
    v = tf.Variable([9.0, 9.0])
    with stage(store, record, task=WORKERS[0], world=WORKERS, values=Values) as staged:
        apply(tf.train.Checkpoint(v=v), None, staged)
    assert list(v.numpy()) == [1.0, 2.0]
