"""The recipe of docs/recipes.md that needs object stores, as a reader would follow it."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

import holdfast
from servers.fixtures import ObjectStore
from support.documents import follow, sections

pytestmark = [pytest.mark.tensorflow]


def test_moving_a_run(object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job at the new place has what was saved at the old one, and one at the old place is told where the run is.
    Guards against a run that begins anew at either."""
    old, new = object_store("s3").location(), object_store("gcs").location()
    for name, value in {**old.environment, **new.environment}.items():
        monkeypatch.setenv(name, value)
    weights = tf.Variable([0.0, 0.0])
    with holdfast.CheckpointManager(tf.train.Checkpoint(weights=weights), old.url) as manager:
        for _ in range(5):
            weights.assign_add([1.0, 2.0])
            manager.save()
    names = {"s3://bucket/runs/digits": old.url, "gs://bucket/runs/digits": new.url}
    follow(sections("recipes.md")["Moving a run from S3 to GCS"], tmp_path, names)
    assert not [path for path in object_store("s3").files.find(old.url) if "/ckpt-" in path]
    with (
        holdfast.CheckpointManager(tf.train.Checkpoint(weights=weights), old.url) as manager,
        pytest.raises(holdfast.errors.HoldfastError, match=new.url),
    ):
        manager.restore_or_initialize()
    weights.assign([0.0, 0.0])
    with holdfast.CheckpointManager(tf.train.Checkpoint(weights=weights), new.url) as manager:
        assert str(manager.restore_or_initialize()).endswith("/ckpt-5")
        assert weights.numpy().tolist() == [5.0, 10.0]
        assert len(manager.checkpoints) == 5
