"""A checkpoint that fits nothing is no restart: it is refused, and what fits in part is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import holdfast
from holdfast_storage.errors import InvalidRequest, SaveFailed

pytestmark = pytest.mark.tensorflow

X = np.ones((2, 4), np.float32)

Make = Callable[..., Any]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Make]:
    made: list[Any] = []

    def make(per_worker: Any = None, **objects: Any) -> Any:
        for each in made:
            each.close()
        made[:] = [holdfast.CheckpointManager(tf.train.Checkpoint(**objects), tmp_path / "run", per_worker=per_worker)]
        return made[0]

    yield make
    for each in made:
        each.close()


def module(**variables: Any) -> Any:
    result = tf.Module()
    for name, value in variables.items():
        setattr(result, name, tf.Variable(value))
    return result


class Net(keras.Model):
    """Its layers are made by its first call. `names` says what they are called."""

    def __init__(self, *names: str, units: int = 3) -> None:
        super().__init__()
        self.names = names
        for name in names:
            setattr(self, name, keras.layers.Dense(units))

    def call(self, x: Any) -> Any:
        for name in self.names:
            x = getattr(self, name)(x)
        return x


def test_nothing_fits(manager: Make, tmp_path: Path) -> None:
    """A checkpoint that fits nothing is refused, and so is a save over it. Guards against an attribute that was
    renamed: training from scratch, and retention that takes the last real checkpoint."""
    saved = manager(net=module(w=[1.0], b=2.0), step=tf.Variable(7)).save(blocking=True)
    new = manager(network=module(w=[0.0], b=0.0), step=tf.Variable(0))
    with pytest.raises(InvalidRequest, match="Give it its old name") as raised:
        new.restore_or_initialize()
    assert all(
        each in str(raised.value) for each in ("(net/w, net/b)", "(network/w, network/b)", "2 trained", "2 of its")
    )
    with pytest.raises(SaveFailed, match="nothing is saved over this"):
        new.save(blocking=True)
    assert new.checkpoints == [saved]
    new.restore().expect_partial()
    assert new.checkpoint.step.numpy() == 7
    assert new.save(blocking=True) is not None


def test_nothing_fits_below_an_object_that_is_there(manager: Make, caplog: pytest.LogCaptureFixture) -> None:
    """An object without its variables does not count as restored. Guards against a misfit below an object that was
    found."""
    saved = manager(net=module(w=[1.0])).save(blocking=True)
    new = manager(net=module(weight=[0.0]))
    with pytest.raises(InvalidRequest, match=r"\(net/w\).*\(net/weight\)"):
        new.restore_or_initialize()
    new.restore()
    assert "nothing of ckpt-1" in caplog.text, "an evaluator never comes to a save"
    with pytest.raises(SaveFailed, match="fits"):
        new.save(blocking=True)
    assert new.checkpoints == [saved]


def test_counters_alone(manager: Make) -> None:
    """Without trained variables, all objects count. Guards against refusing an evaluator's own run of counters."""
    manager(step=tf.Variable(7)).save(blocking=True)
    with pytest.raises(InvalidRequest, match="none of the 1 objects"):
        manager(global_step=tf.Variable(0)).restore_or_initialize()
    found = manager(step=tf.Variable(0), epoch=tf.Variable(0))
    assert found.restore_or_initialize() is not None
    assert found.save(blocking=True) is not None


def test_all_of_it_has_been_found(manager: Make) -> None:
    """If everything in the checkpoint was found, nothing is wrong. Guards against refusing a run that began with
    counters alone and takes up a model."""
    manager(step=tf.Variable(7)).save(blocking=True)
    grown = manager(step=tf.Variable(0), net=module(w=[1.0]))
    assert grown.restore_or_initialize() is not None
    assert grown.save(blocking=True) is not None


@pytest.mark.parametrize(("saved", "restored"), [(5, 6), (6, 5)])
def test_a_warm_start_is_told_and_goes_on(
    manager: Make, caplog: pytest.LogCaptureFixture, saved: int, restored: int
) -> None:
    """A warm start is logged and goes on. Guards against five of six layers restored without a word, or no warm start
    at all."""
    manager(layers=[module(w=float(i + 1)) for i in range(saved)]).save(blocking=True)
    new = manager(layers=[module(w=0.0) for _ in range(restored)])
    assert new.restore_or_initialize() is not None
    assert [each.w.numpy() for each in new.checkpoint.layers][:5] == [1.0, 2.0, 3.0, 4.0, 5.0]
    for _ in range(2):
        assert new.save(blocking=True) is not None
    assert warnings(caplog) == ["layers/5/w"]


def test_another_head(manager: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Both names of a changed head are logged. Guards against a warning that names only one side."""
    manager(net=module(body=1.0, old=2.0)).save(blocking=True)
    new = manager(net=module(body=0.0, new=0.0))
    assert new.restore_or_initialize() is not None
    assert warnings(caplog) == ["net/old", "net/new"]


def test_what_is_meant_is_not_told(manager: Make, caplog: pytest.LogCaptureFixture) -> None:
    """`expect_partial` silences the warning. Guards against warning a program that expects a partial restore."""
    manager(net=module(body=1.0, old=2.0)).save(blocking=True)
    new = manager(net=module(body=0.0, new=0.0))
    new.restore().expect_partial()
    new.save(blocking=True)
    assert warnings(caplog) == []


def test_a_reader_is_told_when_it_lets_go_of_the_status(manager: Make, caplog: pytest.LogCaptureFixture) -> None:
    """After `restore()`, both lists are logged as soon as the program has had its say. Guards against an evaluator,
    which never saves, that goes on with half of its model."""
    manager(net=module(body=1.0, old=2.0)).save(blocking=True)
    new = manager(net=module(body=0.0, new=0.0))
    status = new.restore()
    assert warnings(caplog) == []
    del status
    assert warnings(caplog) == ["net/old", "net/new"]
    new.close()
    assert warnings(caplog) == ["net/old", "net/new"]


def test_what_is_built_after_the_restore_is_told_at_the_end(manager: Make, caplog: pytest.LogCaptureFixture) -> None:
    """What does not fit in a model that is built after the restore is logged at `close`. Guards against silence in a
    program that never saves."""
    first = Net("a", "b")
    first(X)
    manager(model=first).save(blocking=True)
    again = Net("a", "c")
    new = manager(model=again)
    new.restore()
    again(X)
    assert warnings(caplog) == []
    new.close()
    [left, lacking] = warnings(caplog)
    assert set(left.split(", ")) == {"model/b/_kernel", "model/b/bias"}
    assert set(lacking.split(", ")) == {"model/c/_kernel", "model/c/bias"}


def test_many_names(manager: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A warning names twenty on each side, and counts the others. Guards against a line of a megabyte."""
    manager(net=module(body=1.0, **{f"old{i:04}": float(i) for i in range(1000)})).save(blocking=True)
    new = manager(net=module(body=0.0))
    new.restore_or_initialize()
    [left] = warnings(caplog)
    assert left.startswith("net/old0000, net/old0001, ")
    assert left.endswith("net/old0019 and 980 more")


def test_what_is_frozen_now(manager: Make) -> None:
    """Restored layers that are frozen now count as restored. Guards against refusing a program in which only new layers
    are trained."""
    first = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(1, name="b")])
    first.compile("adam", "mse")
    first.fit(X, X[:, :1], verbose=0)
    manager(model=first, old=module(w=1.0)).save(blocking=True)
    base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(1, name="b")])
    base.trainable = False
    new = manager(model=base, adapter=module(w=0.0))
    assert new.restore_or_initialize() is not None
    np.testing.assert_array_equal(base.get_layer("a").kernel, first.get_layer("a").kernel)
    assert new.save(blocking=True) is not None


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The names in the warnings of this."""
    records = [each for each in caplog.records if each.levelno == logging.WARNING and "in part" in each.message]
    assert len(records) <= 1
    return [name for each in records for name in (each.args[3], each.args[5]) if name != "none"]  # type: ignore


def test_a_model_that_is_still_to_be_built(manager: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A model that is still to be built is no misfit. Guards against a warning at the first save about what has been
    restored since."""
    first = Net("a", "b")
    first(X)
    manager(model=first).save(blocking=True)
    again = Net("a", "b")
    new = manager(model=again)
    assert new.restore_or_initialize() is not None
    again(X)
    np.testing.assert_array_equal(again.a.kernel, first.a.kernel)
    assert new.save(blocking=True) is not None
    assert warnings(caplog) == []


def test_a_model_that_is_built_and_does_not_fit(manager: Make) -> None:
    """A misfit that shows when the model is built fails the save. Guards against renamed layers and a save over their
    checkpoint."""
    first = Net("a", "b")
    first(X)
    saved = manager(model=first).save(blocking=True)
    again = Net("c", "d")
    new = manager(model=again)
    assert new.restore_or_initialize() == saved
    again(X)
    with pytest.raises(SaveFailed, match=r"4 of its values.*model/a/.*model/c/"):
        new.save(blocking=True)
    assert new.checkpoints == [saved]


def test_optimizers_and_metrics_are_no_model(manager: Make) -> None:
    """Numbers of optimizers and metrics do not count as a restored model. Guards against a model that does not fit and
    passes because of them."""
    models = [keras.Sequential([keras.Input((4,)), Net(name)]) for name in "ab"]
    for model in models:
        model.compile("adam", "mse", metrics=["mae"])
    models[0].fit(X, np.ones((2, 3)), verbose=0)
    models[1].evaluate(X, np.ones((2, 3)), verbose=0)
    manager(state=holdfast.keras.training_state(models[0])).save(blocking=True)
    with pytest.raises(InvalidRequest, match="none of the 2 trained variables"):
        manager(state=holdfast.keras.training_state(models[1])).restore_or_initialize()


def test_nothing_is_there_to_be_saved(manager: Make) -> None:
    """A save before the model is built is refused. Guards against a newest checkpoint that holds nothing of the
    model."""
    first = Net("a")
    first(X)
    saved = manager(model=first, step=tf.Variable(7)).save(blocking=True)
    new = manager(model=Net("a"), step=tf.Variable(0))
    assert new.restore_or_initialize() == saved
    with pytest.raises(SaveFailed, match=r"2 values \(model/a/.*still to be built"):
        new.save(blocking=True)
    assert new.checkpoints == [saved]
    new.checkpoint.model(X)
    np.testing.assert_array_equal(new.checkpoint.model.a.kernel, first.a.kernel)
    assert new.save(blocking=True) is not None


def test_a_late_variable_of_another_shape(manager: Make) -> None:
    """A late variable of another shape makes every save fail. Guards against Keras swallowing the error and training on
    from random numbers."""
    first = Net("a", "b")
    first(X)
    saved = manager(model=first).save(blocking=True)
    again = Net("a", "b", units=5)
    new = manager(model=again)
    assert new.restore_or_initialize() == saved
    again(X)
    with pytest.raises(SaveFailed, match=r"was not restored: .*kernel"):
        new.save(blocking=True)
    assert new.checkpoints == [saved]


def test_an_interrupt_in_a_late_restore(manager: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted late restore makes every save fail. Guards against Ctrl-C in the first step, after which an
    unrestored variable is saved."""
    first = Net("a")
    first(X)
    saved = manager(model=first).save(blocking=True)
    again = Net("a")
    new = manager(model=again)
    assert new.restore_or_initialize() == saved
    monkeypatch.setattr(keras.Variable, "_restore_from_tensors", interrupt_last)
    # Keras notes for each thread what it is initializing, and would go on with it in the next model of this one.
    with ThreadPoolExecutor(1) as other, pytest.raises(KeyboardInterrupt):
        other.submit(again, X).result()
    monkeypatch.undo()
    with pytest.raises(SaveFailed, match=r"was not restored: .*bias: KeyboardInterrupt"):
        new.save(blocking=True)
    assert new.checkpoints == [saved]


def interrupt_last(variable: Any, restored: Any) -> Any:
    if variable.name == "bias":
        raise KeyboardInterrupt
    return variable.value._restore_from_tensors(restored)


def test_per_worker_fits_nothing(manager: Make) -> None:
    """`per_worker` that fits nothing is refused. Guards against an input that silently starts again because it was
    renamed."""
    mine = {name: tf.train.Checkpoint(**{name: iter(tf.data.Dataset.range(9))}) for name in ("input", "iterator")}
    manager(mine["input"], v=tf.Variable(1.0)).save(blocking=True)
    with pytest.raises(InvalidRequest, match=r"fits per_worker: .*\(input.*\(iterator"):
        manager(mine["iterator"], v=tf.Variable(0.0)).restore_or_initialize()
