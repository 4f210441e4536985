"""What a worker tells of its state."""

from __future__ import annotations

import struct
from dataclasses import replace

from holdfast.saving.digest import pack, spec_digest, tensor_crcs
from holdfast.saving.plan import Spec
from holdfast.saving.snapshot import SnapshotTensor
from holdfast_storage.bundle.crc import crc32c

SPECS = [Spec("a", 1, (2, 3), 24), Spec("b", 9, (), 8)]


def test_a_difference_in_key_dtype_or_shape_shows() -> None:
    """A difference in key, dtype or shape changes the digest. Guards against two models that are saved as one, by
    different plans."""
    same = spec_digest([replace(s) for s in SPECS])
    assert spec_digest(SPECS) == same
    others = [
        [SPECS[1], SPECS[0]],
        SPECS[:1],
        [replace(SPECS[0], key="aa"), SPECS[1]],
        [replace(SPECS[0], dtype=3), SPECS[1]],
        [replace(SPECS[0], shape=(3, 2)), SPECS[1]],
        [replace(SPECS[0], shape=(2, 3, 1)), SPECS[1]],
    ]
    assert same not in [spec_digest(specs) for specs in others]
    assert spec_digest(SPECS, "ckpt") not in (same, spec_digest(SPECS, "ckp", "t"))


def test_the_length_of_a_string_does_not_show() -> None:
    """The length of a string does not change the digest. Guards against refusing a worker-local string as another
    model."""
    text = Spec("text", 7, (), 5, encoded=True)
    assert spec_digest([text]) == spec_digest([replace(text, size=50)])


def test_the_shape_of_a_variant_does_not_show() -> None:
    """The shape of a variant does not change the digest. Guards against refusing a shuffled input, which has as many
    parts as its buffer holds at the moment."""
    iterator = SnapshotTensor("it", 21, (8,), b"abc", encoded_crc32c=1)
    other = replace(iterator, shape=(11,), data=b"abcdef", encoded_crc32c=2)
    assert spec_digest([iterator.spec]) == spec_digest([other.spec])


def test_checksums_stay_in_key_order() -> None:
    """Checksums are in key order. Guards against threads that mix up the positions by which workers compare."""
    data = [bytes([n % 256]) * (n * 997 % 4096) for n in range(500)] + [bytes(40 << 20), b"", bytes(40 << 20), b"x"]
    tensors = [SnapshotTensor(str(n), 4, (len(d),), memoryview(d)) for n, d in enumerate(data)]
    crcs = tensor_crcs(tensors, threads=3)
    assert list(crcs) == [crc32c(d) for d in data]
    assert struct.unpack(f"<{len(data)}I", pack(crcs)) == crcs
    assert tensor_crcs([]) == ()
