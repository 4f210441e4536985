"""`holdfast.CheckpointManager` in programs that were written for TensorFlow's class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

import holdfast
from holdfast.manager import Manager
from holdfast_storage.errors import SaveFailed

pytestmark = pytest.mark.tensorflow

MANAGERS = [tf.train.CheckpointManager, holdfast.CheckpointManager]


def _end(manager: Any) -> None:
    """Leave nothing to the tests after this one: TensorFlow's managers need no end."""
    getattr(manager, "close", manager.sync)()


def test_it_is_one(tmp_path: Path) -> None:
    """A manager is a `tf.train.CheckpointManager`, of which it uses nothing. Guards against programs that look at the
    class, as orbit and TensorFlow's preemption handler do, and against a new member of TensorFlow's that would look at
    fields which only its own constructor makes."""
    theirs = {name for name in vars(tf.train.CheckpointManager) if not name.startswith("_")}
    assert theirs <= set(vars(Manager))
    with holdfast.CheckpointManager(tf.train.Checkpoint(v=tf.Variable(1.0)), tmp_path) as manager:
        assert isinstance(manager, tf.train.CheckpointManager)
        assert manager.__doc__


@pytest.mark.parametrize("manager_class", MANAGERS, ids=["tensorflow", "holdfast"])
@pytest.mark.parametrize("prefix", ["latest_checkpoint", "checkpoints"])
def test_a_program_reads_what_it_has_just_saved(tmp_path: Path, manager_class: Any, prefix: str) -> None:
    """`latest_checkpoint` and `checkpoints` know the save that has just returned, as TensorFlow's do. Guards against
    the idiom of TensorFlow's guide that would restore the save before, or nothing, in silence."""
    value, much = tf.Variable(0.0), tf.Variable(tf.zeros([1_000_000]))
    checkpoint = tf.train.Checkpoint(value=value, much=much)
    manager = manager_class(checkpoint, str(tmp_path), max_to_keep=3)
    for number in (1.0, 2.0, 3.0):
        value.assign(number)
        saved = manager.save()
        value.assign(99.0)
        latest = manager.latest_checkpoint if prefix == "latest_checkpoint" else manager.checkpoints[-1]
        assert latest == saved
        checkpoint.restore(latest).assert_consumed()
        assert value.numpy() == number
    _end(manager)


@pytest.mark.parametrize("manager_class", MANAGERS, ids=["tensorflow", "holdfast"])
@pytest.mark.parametrize("how", ["latest_checkpoint", "restore_or_initialize"])
def test_a_new_manager_reads_what_the_one_before_has_just_saved(tmp_path: Path, manager_class: Any, how: str) -> None:
    """A second manager of the same program, made while the first one's save is in flight, finds that save and goes on
    from it. Guards against a notebook whose cell runs again, or makes a new model and manager, and which would go on
    from the save before in silence."""
    kept = []
    for number in (1.0, 2.0, 3.0):
        value, much = tf.Variable(0.0), tf.Variable(tf.zeros([1_000_000]))
        checkpoint = tf.train.Checkpoint(value=value, much=much)
        manager = manager_class(checkpoint, str(tmp_path), max_to_keep=3)
        if how == "latest_checkpoint":
            checkpoint.restore(manager.latest_checkpoint)
        else:
            manager.restore_or_initialize()
        assert value.numpy() == number - 1
        value.assign(number)
        manager.save()
        kept.append(manager)
    for manager in reversed(kept):
        _end(manager)


@pytest.mark.parametrize("manager_class", MANAGERS, ids=["tensorflow", "holdfast"])
def test_what_save_returns_can_be_restored(tmp_path: Path, manager_class: Any) -> None:
    """TensorFlow restores from a prefix that `save` has returned, after `sync`. Guards against prefixes that only
    Holdfast understands."""
    value = tf.Variable(1.0)
    checkpoint = tf.train.Checkpoint(value=value)
    manager = manager_class(checkpoint, str(tmp_path), max_to_keep=3)
    saved = manager.save()
    manager.sync()
    value.assign(2.0)
    checkpoint.restore(saved).assert_consumed()
    assert value.numpy() == 1.0
    assert tf.train.latest_checkpoint(str(tmp_path)) == saved
    _end(manager)


def test_a_failed_save_does_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at the checkpoints does not swallow the error of the save that it waits for. Guards against failures that
    nobody is told of."""
    manager = holdfast.CheckpointManager(tf.train.Checkpoint(value=tf.Variable(1.0)), tmp_path)
    first = manager.save(blocking=True)
    with monkeypatch.context() as patch:
        patch.setattr("holdfast.saving.save.write_objects", lambda *args, **kwargs: 1 / 0)
        manager.save()
        assert manager.checkpoints == [first]
    with pytest.raises(SaveFailed):
        manager.wait()
    assert manager.latest_checkpoint == first
    manager.close()
    assert manager.latest_checkpoint == first
