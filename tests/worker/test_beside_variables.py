"""What a Keras model has beside its variables comes back, or is refused by name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from holdfast import CheckpointManager
from holdfast.keras import training_state
from holdfast_storage.errors import InvalidRequest, SaveFailed

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning"),  # TensorFlow's, at adapt
]

BOTH = pytest.mark.parametrize("k", [keras, tf_keras], ids=["keras", "tf_keras"])

NUMBERS = np.random.RandomState(0).normal(100.0, 7.0, (64, 3)).astype(np.float32)
WORDS = np.array([["b"], ["c"], ["b"], ["two\nlines"], ["ä"], ["b"], ["c"]])
TEXTS = np.array([["b c"], ["d b"], ["ä e"]])
IDS = np.array([[7], [-3], [7], [1 << 40]])

ADAPTED: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
    "Normalization": (lambda layers: layers.Normalization(), NUMBERS, 2 * NUMBERS),
    "inverted Normalization": (lambda layers: layers.Normalization(axis=None, invert=True), NUMBERS, 2 * NUMBERS),
    "Discretization": (lambda layers: layers.Discretization(num_bins=4), NUMBERS, 2 * NUMBERS),
    "StringLookup": (lambda layers: layers.StringLookup(), WORDS, WORDS[::-1][1:]),
    "inverted StringLookup": (lambda layers: layers.StringLookup(invert=True), WORDS, WORDS[3:]),
    "StringLookup with oov": (lambda layers: layers.StringLookup(num_oov_indices=3, mask_token="z"), WORDS, WORDS[3:]),
    "StringLookup tf_idf": (lambda layers: layers.StringLookup(output_mode="tf_idf"), WORDS, None),
    "padded tf_idf": (lambda layers: layers.StringLookup(9, output_mode="tf_idf", pad_to_max_tokens=True), WORDS, None),
    "StringLookup multi_hot": (lambda layers: layers.StringLookup(output_mode="multi_hot"), WORDS, None),
    "IntegerLookup": (lambda layers: layers.IntegerLookup(), IDS, IDS[2:]),
    "TextVectorization": (lambda layers: layers.TextVectorization(), TEXTS, TEXTS[1:]),
    "TextVectorization tf_idf": (lambda layers: layers.TextVectorization(output_mode="tf_idf"), TEXTS, None),
}


def holder(k: Any, layer: Any, where: str) -> Any:
    """A model of either Keras with one layer, at a place where TensorFlow may not look."""

    class Holder(k.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            if where == "attribute":
                self.held = layer
            elif where == "list":
                self.held = [layer]
            else:
                self.held = {"a": [holder(k, layer, "attribute")]}

        def call(self, x: Any) -> Any:
            held = self.held["a"] if isinstance(self.held, dict) else self.held
            return (held[0] if isinstance(held, list) else held)(x)

    return Holder()


@BOTH
@pytest.mark.parametrize(
    ("kind", "where"),
    [*((kind, "attribute") for kind in ADAPTED), ("Normalization", "list"), ("StringLookup", "nested")],
)
def test_what_was_adapted_comes_back(k: Any, kind: str, where: str, tmp_path: Path) -> None:
    """What `adapt` has learnt comes back, into a new layer and into one that has learnt something else. Guards against
    outputs of an unadapted layer, a table that is not initialized, and embeddings of other words."""
    make, data, others = ADAPTED[kind]
    x = tf.constant(np.arange(4)[:, None] if "inverted String" in kind else data)
    layer = make(k.layers)
    layer.adapt(data)
    with CheckpointManager(training_state(holder(k, layer, where)), tmp_path / "run") as manager:
        manager.save(blocking=True)
    expected = np.asarray(holder(k, layer, where)(x))

    for learnt in [None, others] if where == "attribute" and others is not None else [None]:
        again = make(k.layers)
        if learnt is not None:
            again.adapt(learnt)
            assert not np.array_equal(np.asarray(again(x)), expected), "others must be told apart"
        model = holder(k, again, where)
        with CheckpointManager(training_state(model), tmp_path / "run") as manager:
            status = manager.restore()
            np.testing.assert_array_equal(np.asarray(model(x)), expected)
            status.assert_consumed()
            manager.save(blocking=True)  # and it can be saved again


@BOTH
def test_anybody_can_read_a_vocabulary(k: Any, tmp_path: Path) -> None:
    """A vocabulary is an array of strings under the layer's key. Guards against an encoding that only we know."""
    layer = k.layers.StringLookup()
    layer.adapt(WORDS)
    prefix = training_state(layer).write(str(tmp_path / "ckpt"))
    tokens = tf.train.load_variable(prefix, "model/vocabulary-0/.ATTRIBUTES/tokens")
    assert [token.decode() for token in tokens] == ["[UNK]", "b", "c", "ä", "two\nlines"]


@BOTH
def test_a_vocabulary_that_is_an_argument_is_not_saved(k: Any, tmp_path: Path) -> None:
    """A vocabulary that the program gives is not saved, and a saved one that it does not want is told. Guards against a
    checkpoint that overrules the program, and a vocabulary that changed without a word."""
    given = k.layers.StringLookup(vocabulary=["c", "b"])
    assert not any("vocabulary" in key for key, _ in saved_keys(training_state(given), tmp_path / "given"))
    layer = k.layers.StringLookup()
    layer.adapt(WORDS)
    with CheckpointManager(training_state(layer), tmp_path / "run") as manager:
        manager.save(blocking=True)
    with CheckpointManager(training_state(given), tmp_path / "run") as manager:
        assert manager.restore_or_initialize() is not None
        with pytest.raises(SaveFailed, match=r"nothing of ckpt-1\S+ fits this program: .*model/vocabulary-0"):
            manager.save(blocking=True)
    assert given.get_vocabulary() == ["[UNK]", "c", "b"]


def saved_keys(checkpoint: Any, folder: Path) -> list[Any]:
    return tf.train.list_variables(checkpoint.write(str(folder / "ckpt")))


@BOTH
@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("cell", ["LSTM", "ConvLSTM1D", "Bidirectional"])
def test_a_stateful_rnn_goes_on(k: Any, cell: str, built: bool, tmp_path: Path) -> None:
    """What a stateful RNN carries from batch to batch comes back, also into a model that is built after the restore.
    Guards against states that silently start from zero."""
    tf_keras.backend.experimental.enable_tf_random_generator()
    x = np.random.RandomState(1).rand(2, 3, 4).astype(np.float32)
    x = x[..., None] if cell == "ConvLSTM1D" else x

    def create() -> Any:
        k.utils.set_random_seed(1)
        layers = k.layers
        rnn = layers.ConvLSTM1D(2, 2, stateful=True) if cell == "ConvLSTM1D" else layers.LSTM(2, stateful=True)
        rnn = layers.Bidirectional(rnn) if cell == "Bidirectional" else rnn
        model = k.Sequential([rnn])
        if built:
            model.build(x.shape)
        return model

    model = create()
    model(x)
    with CheckpointManager(training_state(model), tmp_path / "run") as manager:
        manager.save(blocking=True)
    expected = [np.asarray(model(x)) for _ in range(2)]
    again = create()
    with CheckpointManager(training_state(again), tmp_path / "run") as manager:
        status = manager.restore()
        np.testing.assert_array_equal([np.asarray(again(x)) for _ in range(2)], expected)
        status.assert_consumed()
    tf_keras.backend.experimental.disable_tf_random_generator()


def with_methods_of_its_own(k: Any, units: int) -> Any:
    """A layer that keeps a number, an array and a file beside its weight, as Keras's protocol wants it."""

    class Own(k.layers.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.table = np.zeros(units)
            self.words = ""

        def build(self, shape: Any) -> None:
            self.scale = self.add_weight(shape=(units,), initializer="ones", name="scale")
            self.built = True

        def call(self, x: Any) -> Any:
            return x * self.scale + self.table + float(len(self.words))

        def save_own_variables(self, store: Any) -> None:
            super().save_own_variables(store)
            store["a table/1"] = self.table

        def load_own_variables(self, store: Any) -> None:
            self.table = store["a table/1"]
            super().load_own_variables({key: store[key] for key in store if key != "a table/1"})

        def save_assets(self, folder: str) -> None:
            Path(folder, "sub").mkdir()
            Path(folder, "sub", "words.txt").write_text(self.words)

        def load_assets(self, folder: str) -> None:
            self.words = Path(folder, "sub", "words.txt").read_text()

    return Own()


@BOTH
@pytest.mark.parametrize("built", [True, False])
def test_what_a_layer_saves_by_methods_of_its_own(k: Any, built: bool, tmp_path: Path) -> None:
    """What a layer saves by `save_own_variables` and `save_assets` comes back. Guards against state that Keras's own
    format has, and a checkpoint does not."""
    x = np.ones((2, 3), np.float32)
    model = k.Sequential([with_methods_of_its_own(k, 3)])
    expected = model(x)
    layer = model.layers[-1]
    layer.table, layer.words = np.arange(3), "four"
    layer.scale.assign([1.0, 2.0, 3.0])
    expected = np.asarray(model(x))
    with CheckpointManager(training_state(model), tmp_path / "run") as manager:
        manager.save(blocking=True)
    again = k.Sequential([with_methods_of_its_own(k, 3)])
    if built:
        again(x)
    with CheckpointManager(training_state(again), tmp_path / "run") as manager:
        status = manager.restore()
        again(x)
        np.testing.assert_array_equal(np.asarray(again(x)), expected)
        status.assert_consumed()
        manager.save(blocking=True)


@BOTH
def test_a_method_that_fails_is_told_by_name(k: Any, tmp_path: Path) -> None:
    """An error of such a method names the layer, and keeps the checkpoint from being saved over. Guards against state
    that is lost in silence, or by a save after the failure."""
    x = np.ones((2, 3), np.float32)
    model, again = (k.Sequential([with_methods_of_its_own(k, 3)]) for _ in range(2))
    layer, other = (each.layers[-1] if each(x) is not None else None for each in (model, again))
    layer.save_assets = lambda folder: Path(folder, "absent", "file").read_text()
    manager = CheckpointManager(training_state(model), tmp_path / "run")
    with pytest.raises(
        SaveFailed, match=rf"what layer {layer.name} saves by methods of its own cannot be saved: .*absent"
    ):
        manager.save(blocking=True)
    del layer.save_assets
    manager.save(blocking=True)
    manager.close()
    other.load_assets = lambda folder: 1 / 0
    manager = CheckpointManager(training_state(again), tmp_path / "run")
    with pytest.raises(InvalidRequest, match=rf"was not restored: what layer {other.name} saves.*division by zero"):
        manager.restore_or_initialize()
    with pytest.raises(SaveFailed, match="was not restored"):
        manager.save(blocking=True)
    manager.close()


@BOTH
def test_a_plain_checkpoint_is_refused(k: Any, tmp_path: Path) -> None:
    """A checkpoint that leaves out what TensorFlow does not see is refused by name, before the first step. Guards
    against training for days towards a checkpoint that cannot be used."""
    layer = k.layers.StringLookup(name="words")
    layer.adapt(WORDS)
    with CheckpointManager(tf.train.Checkpoint(model=k.Sequential([layer])), tmp_path / "run") as manager:
        for call in (manager.save, manager.restore_or_initialize):
            with pytest.raises(
                InvalidRequest, match=r"1 parts.*the vocabulary of layer words.*training_state\(model\)"
            ):
                call()
        training_state(manager.checkpoint.model).write(str(tmp_path / "stock"))  # which attaches it
        manager.save(blocking=True)


def test_what_a_plain_checkpoint_lacks_after_the_first_step(tmp_path: Path) -> None:
    """Layers in a list that are built after the first call are refused at the save. Guards against a check that only
    sees what exists at the beginning."""
    model = holder(keras, keras.layers.Dense(2), "list")
    with CheckpointManager(tf.train.Checkpoint(model=model), tmp_path / "run") as manager:
        assert manager.restore_or_initialize() is None
        model(np.ones((1, 3)))
        with pytest.raises(SaveFailed, match=r"leaves out 2 parts.*dense.*kernel"):
            manager.save(blocking=True)
        manager.checkpoint.weights = model.weights  # another way to keep them
        manager.save(blocking=True)


def test_random_generators_of_a_plain_checkpoint_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A plain checkpoint of a model with dropout is saved, and once told what it lacks. Guards against refusing the
    programs of TensorFlow's tutorials, or silence."""
    model = keras.Sequential([keras.layers.Dropout(0.5, name="drop")])
    model(np.ones((1, 3)))
    with CheckpointManager(tf.train.Checkpoint(model=model), tmp_path / "run") as manager:
        for _ in range(2):
            manager.save(blocking=True)
            manager.checkpoint.more = tf.Variable(0)
    told = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(told) == 1
    assert all(each in told[0] for each in ("1 random generators and metrics", "seed_generator-0 of drop"))
