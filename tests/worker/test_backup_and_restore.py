"""A `fit` that is ended anywhere and begun again goes on at the next batch, and ends as if it had never stopped."""

from __future__ import annotations

import csv
import threading
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import holdfast
from holdfast import fit_internals
from holdfast.keras import BackupAndRestore
from holdfast_storage import internals
from holdfast_storage.errors import InvalidRequest
from support.fits import BATCH, EXAMPLES, STEPS, Killed, Program, Seen, same
from support.internals import rename
from support.two_cpus import DEVICES

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore"),  # Keras warns of what its own `fit` does
]

LIBRARIES = ("keras", "tf_keras")


def endless(dataset: Any) -> Any:
    return dataset.repeat()


def uncounted(dataset: Any) -> Any:
    return dataset.filter(lambda *_: True)


def schedule(library: Any) -> Any:
    return library.optimizers.schedules.ExponentialDecay(3e-3, 7, 0.9)


def multiplied(library: Any) -> Any:
    return library.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.8)


def mirrored() -> Any:
    return tf.distribute.MirroredStrategy(DEVICES, tf.distribute.ReductionToOneDevice()).scope()


def python_dataset(library: Any, **options: Any) -> Any:
    base = library.utils.PyDataset if library is keras else library.utils.Sequence

    class Data(base):  # type: ignore[misc]
        def __len__(self) -> int:
            return STEPS

        def __getitem__(self, index: int) -> Any:
            values = np.random.RandomState(index).rand(BATCH, 6).astype(np.float32)
            return values, (values.sum(1) * 3).astype(np.int32) % 4

    return Data(**options)


def threaded(library: Any) -> Any:
    data = python_dataset(library, workers=2)
    # It gives the threads time to read ahead.
    data.on_epoch_begin = partial(threading.Event().wait, 0.1)
    return data


PYTHON_DATASET = "a Python dataset, which Keras shuffles and reads by threads"
CASES: dict[str, tuple[dict[str, Any], list[int], bool]] = {
    "in mid-epoch, twice": ({"others": [multiplied]}, [STEPS + 3, 2], False),
    "in validation, saved at the last batch": ({"save_freq": STEPS}, [2 * STEPS], True),
    "of unknown length, in validation": (
        {"save_freq": STEPS, "input": uncounted, "rate": schedule, "verbose": 1},
        [STEPS] * 2,
        True,
    ),
    "one iterator, several batches at a time": (
        {"input": endless, "steps_per_epoch": 4, "steps_per_execution": 2, "save_freq": 2},
        [3],
        False,
    ),
    PYTHON_DATASET: ({"make_input": threaded, "shuffle": True}, [STEPS + 3], False),
    "a Python dataset, in validation": (
        {"make_input": python_dataset, "shuffle": True, "save_freq": STEPS},
        [STEPS],
        True,
    ),
    "two devices": ({"scope": mirrored}, [STEPS + 3], False),
}
"""Options of a program, after how many batches it is killed in each of its lives, and whether that is in validation."""


@pytest.fixture(autouse=True, scope="module")
def _deterministic() -> Any:
    tf.config.experimental.enable_op_determinism()


@pytest.mark.parametrize(
    ("library", "case"),
    [(library, case) for library, case in product(LIBRARIES, CASES) if library == "keras" or "Python" not in case],
)
def test_it_ends_as_if_it_had_never_stopped(library: str, case: str, tmp_path: Path) -> None:
    """Weights, optimizer, history, callbacks and the loss after each batch are equal, bit for bit. Guards against
    batches that are trained twice or left out, another shuffling, metrics that begin anew, and rates applied twice."""
    options, kills, in_validation = CASES[case]
    expected, whole = Program(library, tmp_path / "whole", options).run_until_done([])
    found, seen = Program(library, tmp_path / "cut", options).run_until_done(kills, in_validation=in_validation)
    assert same(expected, found) == []
    assert seen.epochs == whole.epochs
    assert whole.kept() == seen.kept()


@pytest.mark.parametrize("boundary", [3, STEPS + 2, STEPS + 4 + 1], ids=["mid-epoch", "validation", "epoch's end"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_save_that_was_asked_for(
    library: str, boundary: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save is made wherever all workers agree on it, and the fit goes on from there, without a batch twice. Guards
    against a preemption that nobody looks at in validation, and validation's metrics for those of the training."""
    passed = 0

    def save_if_requested(manager: Any, number: Any, before: Any) -> Any:
        nonlocal passed
        passed += 1
        if passed != boundary:
            return None
        before()
        manager.save(number, blocking=True)
        raise holdfast.Preempted(143, "this host goes away")

    program = Program(library, tmp_path / "whole", {"epochs": 2, "save_freq": False})
    expected, whole = program.run_until_done([])
    monkeypatch.setattr(holdfast.CheckpointManager, "save_if_requested", save_if_requested)
    seen = Seen()
    program = program.but(directory=tmp_path / "cut")
    with pytest.raises(holdfast.Preempted):
        program.run(seen)
    found = program.run(seen)
    assert same(expected, found) == []
    assert seen.epochs == whole.epochs
    assert len(seen.batches) == len(whole.batches)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_next_fit_begins_anew(library: str, tmp_path: Path) -> None:
    """After a fit that came to its end the next one begins anew, and the checkpoints are gone. Guards against a program
    that is run again and trains nothing, and against folders that grow."""
    program = Program(library, tmp_path, {"epochs": 1})
    expected, _ = program.run_until_done([])
    [finished] = (tmp_path / "run").glob("ckpt-*")
    assert sum(each.stat().st_size for each in finished.rglob("*")) < 200_000
    again, seen = program.run_until_done([])
    assert len(seen.batches) == STEPS
    assert same(expected, again) == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_checkpoint_that_is_kept(library: str, tmp_path: Path) -> None:
    """With delete_checkpoint=False, the next fit goes on with the epochs that it has more. Guards against a finished
    training that is thrown away."""
    program = Program(library, tmp_path, {"epochs": 1, "save_freq": "epoch", "delete_checkpoint": False})
    program.run_until_done([])
    _, seen = program.run_until_done([])
    assert seen.batches == []
    longer, seen = program.but(epochs=2).run_until_done([])
    assert {epoch for epoch, _, _ in seen.batches} == {1}
    assert longer["epochs"] == [0, 1]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_training_that_was_stopped(library: str, tmp_path: Path) -> None:
    """A training that EarlyStopping has ended, and that is killed before `fit` ends, is not taken up again, and ends
    with the best weights. Guards against a restart that trains on from the worst."""

    class Killer(keras.callbacks.Callback if library == "keras" else tf_keras.callbacks.Callback):  # type: ignore[misc]
        alive = False

        def on_train_end(self, logs: Any = None) -> None:
            if not self.alive:
                raise Killed

    def stopping(module: Any) -> Any:
        return module.callbacks.EarlyStopping("loss", min_delta=100, restore_best_weights=True)

    killer = Killer()
    program = Program(library, tmp_path, {"save_freq": "epoch", "others": [stopping, lambda _: killer]})
    with pytest.raises(Killed):
        program.run(Seen())
    killer.alive = True
    found, seen = program.run_until_done([])
    assert seen.batches == []
    assert found["epochs"] == [0, 1]
    expected, _ = Program(library, tmp_path / "whole", program.options).run_until_done([])
    for each in (expected, found):
        del each["callbacks"]  # some come to know what they need at an epoch's end
    assert same(expected, found) == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_training_that_was_stopped_in_mid_epoch(library: str, tmp_path: Path) -> None:
    """A training that a callback has ended at a batch, and that is killed at that epoch's end, has that end after the
    restart, and then ends. Guards against one that trains on."""

    def stopping(module: Any) -> Any:
        class Stop(module.callbacks.Callback):  # type: ignore[misc]
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                self.model.stop_training = self.model.optimizer.iterations.numpy() == STEPS + 3

        return Stop()

    options = {"save_freq": STEPS + 3, "others": [stopping]}
    expected, whole = Program(library, tmp_path / "whole", options).run_until_done([])
    found, seen = Program(library, tmp_path / "cut", options).run_until_done([STEPS + 3])
    assert same(expected, found) == []
    assert seen == whole


@pytest.mark.parametrize("library", LIBRARIES)
def test_rows_of_a_csv_file(library: str, tmp_path: Path) -> None:
    """A CSVLogger that appends has one row for each epoch, whatever was killed. Guards against rows that are there
    twice."""
    rows = {}
    for name, kills in (("whole", []), ("cut", [2 * STEPS + 1, 3])):
        file = tmp_path / f"{name}.csv"
        options = {"save_freq": 7, "others": [lambda module, file=file: module.callbacks.CSVLogger(file, append=True)]}
        Program(library, tmp_path / name, options).run_until_done(kills)
        rows[name] = list(csv.reader(file.read_text().splitlines()))
    assert rows["cut"] == rows["whole"]


def in_whole(dataset: Any) -> Any:
    return dataset.apply(tf.data.experimental.assert_cardinality(2))


def thrice(dataset: Any) -> Any:
    return dataset.repeat(3)


@pytest.mark.parametrize("one_iterator", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_another_number_of_batches(
    library: str, one_iterator: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An epoch that has fewer batches now than were trained of it is over, and that is told. Guards against a restart
    with larger batches that ends in an error of Keras's, or reads past the input of the epochs after it."""
    before = {"input": thrice, "steps_per_epoch": STEPS} if one_iterator else {}
    program = Program(library, tmp_path, {"save_freq": STEPS + 3, **before})
    with pytest.raises(Killed):
        program.run(Seen(), 2 * STEPS - 1)
    seen, then = Seen(), thrice if one_iterator else in_whole
    after = {"steps_per_epoch": 2} if one_iterator else {}
    found = program.but(input=lambda data: then(data.unbatch().batch(EXAMPLES // 2)), **after).run(seen)
    assert "epoch 1 had 5 batches when 3 of them were trained, and has 2 now" in caplog.text
    assert [each[:2] for each in seen.batches] == [(2, 0), (2, 1)]
    assert found["epochs"] == [0, 1, 2]


def test_another_first_epoch_is_refused(tmp_path: Path) -> None:
    """A fit that is told to begin after the place that was saved is refused. Guards against input that runs out."""
    program = Program("tf_keras", tmp_path)
    with pytest.raises(Killed):
        program.run(Seen(), STEPS + 2)
    with pytest.raises(InvalidRequest, match="initial_epoch is 2, and the fit that was saved goes on in epoch 1"):
        program.but(initial_epoch=2).run(Seen())


def test_a_csv_file_that_is_begun_anew_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A CSVLogger that does not append is named. Guards against rows that are lost in silence."""
    options = {"epochs": 1, "others": [lambda module: module.callbacks.CSVLogger(tmp_path / "rows.csv")]}
    Program("keras", tmp_path, options).run_until_done([])
    assert "rows.csv" in caplog.text
    assert "append=True" in caplog.text


class Counting(keras.callbacks.Callback):  # type: ignore[misc]
    """A callback of a program's own, with a state."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.state = state

    def on_train_begin(self, logs: Any = None) -> None:
        self.state = type(self.state)()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.state += 1

    def get_state(self) -> Any:
        return self.state

    def set_state(self, state: Any) -> None:
        self.state = state


def test_states_of_other_callbacks(tmp_path: Path) -> None:
    """A callback with get_state and set_state goes on. Guards against counters of a program's own that begin anew."""
    counter = Counting(0)
    Program("keras", tmp_path, {"others": [lambda _: counter]}).run_until_done([STEPS + 2])
    assert counter.state == 3 * STEPS


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_batch_that_was_seen_is_not_told_again(library: str, tmp_path: Path) -> None:
    """Keras's ModelCheckpoint saves at the same batches when a fit goes on in validation, after the epoch's last batch.
    Guards against an epoch whose batches it counts twice."""

    def saves_of(name: str, kills: list[int]) -> list[str]:
        folder = tmp_path / name / "saves"
        folder.mkdir(parents=True)
        path = str(folder / "{epoch}-{batch}.keras")
        options = {
            "save_freq": STEPS,
            "others": [lambda module: module.callbacks.ModelCheckpoint(path, save_freq=STEPS + 2)],
        }
        Program(library, tmp_path / name, options).run_until_done(kills, in_validation=True)
        return sorted(each.name for each in folder.iterdir())

    whole = saves_of("whole", [])
    assert len(whole) == 2
    assert saves_of("cut", [STEPS]) == whole


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_fit_that_is_interrupted_before_its_first_batch(library: str, tmp_path: Path) -> None:
    """After an interrupt the same model can be trained on without the callback, and in a notebook often is. Guards
    against a first batch that is passed by once more."""

    def interrupted(module: Any) -> Any:
        def interrupt(batch: int, logs: Any) -> None:
            raise KeyboardInterrupt

        return module.callbacks.LambdaCallback(on_train_batch_begin=interrupt)

    program = Program(library, tmp_path, {"save_freq": STEPS})
    with pytest.raises(Killed):
        program.run(Seen(), STEPS, in_validation=True)
    model = program.model()
    with pytest.raises(KeyboardInterrupt):
        program.but(model=lambda _: model, others=[interrupted]).run(Seen())
    before = model.optimizer.iterations.numpy()
    model.fit(np.zeros((EXAMPLES, 6)), np.zeros(EXAMPLES), batch_size=BATCH, verbose=0)
    assert model.optimizer.iterations.numpy() == before + STEPS


def test_weights_that_are_swapped(tmp_path: Path) -> None:
    """A SwapEMAWeights that has the averages in the model at an epoch's end takes them out again. Guards against a
    training that goes on from the averages, and averages the weights."""

    def make(keras: Any) -> Any:
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.5, use_ema=True), loss)
        return model

    options = {
        "model": make,
        "validation": None,
        "monitor": "loss",
        "save_freq": "epoch",
        "others": [lambda keras: keras.callbacks.SwapEMAWeights(swap_on_epoch=True)],
    }
    expected, _ = Program("keras", tmp_path / "whole", options).run_until_done([])
    found, _ = Program("keras", tmp_path / "cut", options).run_until_done([STEPS + 1])
    assert same(expected, found) == []


def test_a_state_that_cannot_be_saved(tmp_path: Path) -> None:
    """A state that JSON cannot hold is refused by the callback's name. Guards against an error that names nothing."""

    class Odd(Counting):
        def get_state(self) -> Any:
            return object()

    with pytest.raises(InvalidRequest, match="Odd-1"):
        Program("keras", tmp_path, {"others": [lambda _: Odd(0)]}).run_until_done([])


def test_what_another_program_saved_is_refused(tmp_path: Path) -> None:
    """Checkpoints without a place are refused. Guards against weights that are restored, and epochs that begin anew."""
    model = Program("keras", tmp_path).model()
    with holdfast.CheckpointManager(holdfast.keras.training_state(model), tmp_path / "run") as manager:
        manager.save(blocking=True)
    with pytest.raises(InvalidRequest, match="saved by another program"):
        Program("keras", tmp_path).run_until_done([])


class WithoutCall(keras.Model):  # type: ignore[misc]
    """A model as in adversarial training: no `call`, an optimizer of its own, and a `train_step`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = keras.layers.Dense(4)
        self.mine = keras.optimizers.Adam(0.01)
        self.mean = keras.metrics.Mean("loss")

    @property
    def metrics(self) -> list[Any]:
        return [self.mean]

    def train_step(self, data: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self.layer(data[0]) ** 2)
        weights = self.layer.trainable_variables
        self.mine.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        self.mean.update_state(loss)
        return {"loss": self.mean.result()}


def test_a_model_that_nobody_can_build(tmp_path: Path) -> None:
    """A model whose train_step makes its variables goes on, too. Guards against weights that silently stay random."""

    def make(_: Any) -> Any:
        model = WithoutCall()
        model.compile()
        return model

    options = {"model": make, "validation": None, "monitor": "loss"}
    expected, _ = Program("keras", tmp_path / "whole", options).run_until_done([])
    found, _ = Program("keras", tmp_path / "cut", options).run_until_done([STEPS + 3])
    assert same(expected, found) == []


def test_metrics_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    """Metrics that only the first batch can make are refused at the start. Guards against an epoch whose logs begin
    anew in the middle."""

    class Odd(keras.Model):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            raise NotImplementedError

    def make(_: Any) -> Any:
        model = Odd()
        model.compile("sgd", "mse", metrics=["mae"])
        return model

    with pytest.raises(InvalidRequest, match=r"metrics of Odd .* call model.evaluate on one batch before fit"):
        Program("keras", tmp_path, {"model": make}).run_until_done([])


def test_a_sequence_of_tf_keras_is_refused(tmp_path: Path) -> None:
    """Input that does not say its shapes is refused where metrics depend on them. Guards against an accuracy of another
    kind, guessed from labels of one column."""
    with pytest.raises(InvalidRequest, match=r"call model.evaluate on one batch before fit"):
        Program("tf_keras", tmp_path, {"make_input": python_dataset}).run_until_done([])


def test_a_fit_of_the_programs_own_is_refused(tmp_path: Path) -> None:
    """Outside of Keras's own fit it is refused. Guards against a place that nobody knows."""
    callback = BackupAndRestore(tmp_path)
    callback.set_model(Program("keras", tmp_path).model())
    with pytest.raises(InvalidRequest, match=r"within Keras's own Model\.fit"):
        callback.on_train_begin()


@pytest.mark.parametrize("name", [name for table in fit_internals.TABLES for name in table.names])
def test_a_name_that_is_gone_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing name is refused before anything changes. Guards against a fit that goes on anywhere, after an
    upgrade."""
    monkeypatch.setattr(internals, "_sound", set())
    table = next(each for each in fit_internals.TABLES if name in each.names)
    with pytest.raises(InvalidRequest, match=rf"\b{rename(monkeypatch, name)}\b"):
        table.check()


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_local_variable_that_is_gone_is_refused(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same holds for the local variables of fit. Guards against a KeyError, or another iterator of that name."""
    monkeypatch.setattr(fit_internals, f"LOCALS_OF_{library.upper()}", ("callbacks", "nowhere"))
    with pytest.raises(InvalidRequest, match=r"Model\.fit has no local variables nowhere"):
        Program(library, tmp_path).run_until_done([])


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"backup_dir": ""}, InvalidRequest, "backup_dir is empty"),
        ({"backup_dir": "run", "save_freq": "batch"}, InvalidRequest, "save_freq is 'batch'"),
        ({"backup_dir": "run", "save_freq": -1}, InvalidRequest, "save_freq is -1"),
        ({"backup_dir": "run", "max_to_keep": 5}, TypeError, "max_to_keep"),
        ({"backup_dir": "run", "save_weights_only": True}, TypeError, "save_weights_only"),
    ],
)
def test_arguments_that_cannot_work(arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    """Arguments that cannot work are refused when the callback is made. Guards against a job that fails after its first
    epoch."""
    with pytest.raises(error, match=match):
        BackupAndRestore(**arguments)
