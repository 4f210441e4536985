"""Archives of what a layer saves by methods of its own, as somebody could put them into a checkpoint."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from holdfast.layers.own import Own

pytestmark = pytest.mark.tensorflow


class Layer(tf_keras.layers.Layer):
    """Loads whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: Any = None
        self.build(())

    def save_own_variables(self, store: Any) -> None: ...

    def load_own_variables(self, store: Any) -> None:
        self.loaded = store

    def save_assets(self, folder: str) -> None: ...

    def load_assets(self, folder: str) -> None:
        self.loaded = sorted(path.name for path in Path(folder).iterdir())


def archive(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as written:
        for name, data in members:
            written.writestr(zipfile.ZipInfo(name), data, compression)
    return buffer.getvalue()


def load(data: bytes) -> Any:
    layer = Layer()
    held = Own(layer)
    held.restored = {"archive": tf.constant(np.frombuffer(data, np.uint8))}
    held.settle()
    return layer.loaded


def array(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=True)
    return buffer.getvalue()


def shared(copies: int) -> bytes:
    """An archive that lists one large member many times."""
    whole = archive(("assets/words.txt", bytes(100_000)))
    start = whole.index(b"PK\x01\x02")
    end = whole.index(b"PK\x05\x06")
    listed, tail = whole[start:end] * copies, bytearray(whole[end:])
    tail[8:12] = copies.to_bytes(2, "little") * 2
    tail[12:16] = len(listed).to_bytes(4, "little")
    return whole[:start] + listed + bytes(tail)


def test_what_is_written_is_read() -> None:
    """An archive as Holdfast writes it is loaded. Guards against archives that are refused for another reason."""
    assert load(archive(("assets/words.txt", b"a"))) == ["words.txt"]
    assert load(archive(("variables/one.npy", array(np.ones(2))))).keys() == {"one"}


@pytest.mark.parametrize(
    "data",
    [
        archive(("assets/../../evil", b"x")),
        archive(("/assets/evil", b"x")),
        archive(("assets//evil", b"x")),
        archive(("assets/zeros", bytes(10_000_000)), compression=zipfile.ZIP_DEFLATED),
        shared(1_000),
        archive(("variables/one.npy", array(np.array([print], dtype=object)))),
        b"PK",
    ],
    ids=["above", "from the root", "no name", "inflated", "one member a thousand times", "pickled", "no archive"],
)
def test_what_nobody_here_writes_is_refused(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive that leads elsewhere, grows, or holds code is refused, and nothing is written. Guards against a
    checkpoint that writes files or runs code where it is restored."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises((ValueError, zipfile.BadZipFile)):
        load(data)
    assert not list(tmp_path.rglob("*"))
