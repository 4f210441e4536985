"""manifest.json: round trips and damage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.checkpoint.manifest import Base, Manifest, ObjectRecord, read_manifest
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CheckpointDamaged, InvalidRequest, StorageError
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store import Store
from support.faulty_store import FaultyStore
from support.stores import new_store
from support.written import JSON, manifests

DATA = "ckpt-1.data-00000-of-00001"
SMALL = Manifest(
    "ckpt-1.00000000.0/ckpt-1", 1, 2.0, "00000000", (Task("worker", 0),), (ObjectRecord(DATA, 3, 4, "data"),)
)


@given(manifests())
def test_manifests_read_back(manifest: Manifest) -> None:
    """Any manifest parses to what was written. Guards against a field that the folder does not say about itself."""
    assert Manifest.parse(manifest.to_bytes()) == manifest


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_damage(data: bytes) -> None:
    """Any other bytes are damage. Guards against a traceback out of the parser, instead of going back to an older
    checkpoint."""
    with pytest.raises(CheckpointDamaged, match="is not a manifest"):
        Manifest.parse(data, "ckpt/manifest.json")


@given(st.data())
def test_half_a_manifest_is_damage(data: st.DataObject) -> None:
    """A manifest that is cut off is damage. Guards against a crash in the middle of writing it."""
    whole = SMALL.to_bytes().rstrip()
    with pytest.raises(CheckpointDamaged):
        Manifest.parse(whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(field, value) for field in ("name", "size", "crc32c", "role") for value in (None, -1, [], {})],
        *[("name", value) for value in ("../x", "/etc/passwd", "", "a/../../b")],
        ("crc32c", "not a number"),
        ("task", "worker"),
        ("task", 3),
    ],
)
def test_nonsense_in_an_object(field: str, value: object) -> None:
    """Impossible object records are damage. Guards against a foreign manifest that names files outside its folder, or
    has a negative size."""
    fields = json.loads(SMALL.to_bytes())
    fields["objects"][0][field] = value
    with pytest.raises(CheckpointDamaged):
        Manifest.parse(json.dumps(fields).encode())


def test_unknown_fields_are_ignored_and_newer_formats_refused() -> None:
    """Unknown fields are ignored, and newer formats are refused. Guards against a checkpoint that an older Holdfast
    cannot read after a field was added, or reads wrongly."""
    fields = json.loads(SMALL.to_bytes())
    assert Manifest.parse(json.dumps(fields | {"novelty": 1}).encode()) == SMALL
    with pytest.raises(InvalidRequest, match="newer Holdfast"):
        Manifest.parse(json.dumps(fields | {"format": 3}).encode())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = new_store("posix", tmp_path)
    store.write("ckpt-1.00000000.0/manifest.json", [SMALL.to_bytes()])
    return store


RECORD = CheckpointRecord(SMALL.prefix, 1, 2.0, manifest_crc32c=crc32c(SMALL.to_bytes()))


def test_the_log_vouches_for_the_manifest(store: Store) -> None:
    """A manifest must have the checksum that the log says. Guards against a sound manifest of another checkpoint in
    place of the committed one."""
    assert read_manifest(store, RECORD) == SMALL
    store.replace("ckpt-1.00000000.0/manifest.json", SMALL.to_bytes().replace(b'"step": 1', b'"step": 2'))
    with pytest.raises(CheckpointDamaged, match="not what was committed"):
        read_manifest(store, RECORD)


def test_a_missing_manifest_is_damage_and_an_unreadable_one_is_not(store: Store) -> None:
    """A missing manifest is damage, and an unreadable one is not. Guards against a checkpoint that is condemned because
    the storage did not answer."""
    with pytest.raises(StorageError):
        read_manifest(FaultyStore(store, {("read", 0): "fail"}), RECORD)
    store.delete_folder("ckpt-1.00000000.0")
    with pytest.raises(CheckpointDamaged, match="is missing"):
        read_manifest(store, RECORD)


DELTA = Manifest(
    "ckpt-2.00000000.1/ckpt-2",
    2,
    2.0,
    "00000000",
    (Task("worker", 0),),
    (ObjectRecord("ckpt-2.delta.data-00000-of-00001", 3, 4, "data"),),
    base=Base(SMALL.prefix, 7),
)


def test_a_delta_has_a_format_of_its_own() -> None:
    """The manifest of a delta has a format that an earlier Holdfast refuses; that of a full checkpoint has the one of
    before. Guards against a part that is restored as a whole."""
    assert json.loads(DELTA.to_bytes())["format"] == 2
    assert json.loads(SMALL.to_bytes())["format"] == 1
    assert Manifest.parse(DELTA.to_bytes()) == DELTA


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base", {"prefix": "ckpt-1.0000000a.0/ckpt-1", "manifest_crc32c": "00000007"}),  # of another world
        ("base", {"prefix": DELTA.prefix, "manifest_crc32c": "00000007"}),  # itself
        ("base", {"prefix": "ckpt-3.00000000.2/ckpt-3", "manifest_crc32c": "00000007"}),  # a later one
        ("base", {"prefix": "ckpt-1", "manifest_crc32c": "00000007"}),
        ("base", {"prefix": SMALL.prefix}),
        ("base", None),
        ("base", SMALL.prefix),
    ],
)
def test_what_a_delta_cannot_be_on(field: str, value: object) -> None:
    """A manifest with an impossible base is damage, as is one without, of objects that are a delta's. Guards against a
    chain that ends nowhere."""
    fields = json.loads(DELTA.to_bytes())
    with pytest.raises(CheckpointDamaged):
        Manifest.parse(json.dumps(fields | {field: value}).encode())


def test_the_log_says_on_what_a_delta_is(store: Store) -> None:
    """A manifest and the log must say the same base. Guards against a restore onto what retention does not keep for
    it."""
    store.write("ckpt-2.00000000.1/manifest.json", [DELTA.to_bytes()])
    record = CheckpointRecord(DELTA.prefix, 2, 2.0, manifest_crc32c=crc32c(DELTA.to_bytes()), base=SMALL.prefix)
    assert read_manifest(store, record) == DELTA
    with pytest.raises(CheckpointDamaged, match="the log says otherwise"):
        read_manifest(store, replace(record, base=""))
    with pytest.raises(CheckpointDamaged, match="the log says otherwise"):
        read_manifest(store, replace(RECORD, base="ckpt-0.00000000.0/ckpt-0"))
