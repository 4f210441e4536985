"""The commands on a directory that TensorFlow itself wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

pytestmark = pytest.mark.tensorflow

Holdfast = Callable[..., Result]
HoldfastJson = Callable[..., Any]


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of tf.train.CheckpointManager."""
    import tensorflow as tf

    directory = tmp_path_factory.mktemp("stock")
    checkpoint = tf.train.Checkpoint(kernel=tf.Variable(tf.ones((4, 3))), name=tf.Variable("digits"))
    manager = tf.train.CheckpointManager(checkpoint, str(directory), max_to_keep=5)
    manager.save()
    manager.save()
    return directory


def test_ls_and_show(stock: Path, holdfast_json: HoldfastJson, holdfast: Holdfast) -> None:
    """`ls` and `show` work on TensorFlow's own checkpoints. Guards against a tool that is blind to years of older
    checkpoints."""
    listed = holdfast_json("ls", stock)["checkpoints"]
    assert [(c["step"], c["prefix"], c["stock"]) for c in listed] == [(1, "ckpt-1", True), (2, "ckpt-2", True)]
    assert all(c["size"] > 48 for c in listed)
    shown = holdfast_json("show", f"{stock}@1")
    tensors = {t["key"]: t for t in shown["tensors"]}
    assert tensors["kernel/.ATTRIBUTES/VARIABLE_VALUE"]["shape"] == [4, 3]
    assert tensors["name/.ATTRIBUTES/VARIABLE_VALUE"]["dtype"] == "string"
    assert [o["name"] for o in shown["objects"]] == ["ckpt-1.index", "ckpt-1.data-00000-of-00001"]
    assert "written by TensorFlow" in holdfast("show", stock).stdout
    assert "written by TensorFlow" in holdfast("ls", stock).stdout


def test_verify(stock: Path, holdfast_json: HoldfastJson, tmp_path: Path) -> None:
    """`verify` checks TensorFlow's own checksums. Guards against a bit flip in a stock checkpoint that passes."""
    assert holdfast_json("verify", stock)["good"]
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in stock.iterdir():
        data = bytearray(file.read_bytes())
        if file.name.startswith("ckpt-2.data"):
            data[len(data) // 2] ^= 1
        (copy / file.name).write_bytes(data)
    verified = holdfast_json("verify", copy, status=1)
    assert [c["verdict"] for c in verified["checkpoints"]] == ["good", "damaged"]


def test_a_lost_shard(stock: Path, holdfast: Holdfast, tmp_path: Path) -> None:
    """A stock checkpoint without a shard is damaged, and the missing file is named. Guards against half a copy that
    looks whole."""
    (tmp_path / "ckpt-2.index").write_bytes((stock / "ckpt-2.index").read_bytes())
    result = holdfast("show", tmp_path)
    assert result.exit_code == 1
    assert "ckpt-2.data-00000-of-00001 is missing" in result.stderr
