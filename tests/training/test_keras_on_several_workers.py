"""Keras 3's `fit`, `evaluate` and `predict` under `holdfast.keras.MultiWorkerMirroredStrategy`."""

from __future__ import annotations

from typing import Any

import pytest

from support.keras_release import needs_right_metrics

pytestmark = [pytest.mark.tensorflow, pytest.mark.processes, needs_right_metrics]

ALIKE = 1e-6
"""How far one process and two may be apart, for numbers of the order of 1: they add in another order."""


@pytest.mark.parametrize("way", ["dataset", "arrays", "curves", "dictionaries", "own_step", "sequence"])
def test_two_workers_train_as_one_process(worlds: Any, way: str) -> None:
    """Two workers end as one process does on the same global batches, and agree to the last bit. Guards against
    gradients, metrics or predictions of a part of the batch, and against callbacks that decide apart."""
    (alone,) = worlds.get(1).run("as_one.train", way=way)
    chief, other = worlds.get(2, ours=True).run("as_one.train", way=way)
    assert chief == other
    check_alike(chief, alone)


def test_two_workers_train_as_two_replicas_of_one_process(worlds: Any) -> None:
    """Where Keras itself makes a difference, with clipping and with a worker that has nothing of the last batch, two
    workers are as MirroredStrategy. Guards against a third way."""
    worlds.end(1)  # a process cannot have two such strategies: their collectives would meet
    (mirrored,) = worlds.fresh(1).run("as_one.train", way="clipped", mirrored=True)
    worlds.end(1)
    chief, other = worlds.get(2, ours=True).run("as_one.train", way="clipped")
    assert chief == other
    check_alike(chief, mirrored)


def check_alike(trained: dict[str, Any], expected: dict[str, Any]) -> None:
    assert trained["iterations"] == expected["iterations"]
    for what in ("told", "values"):
        assert trained[what].keys() == expected[what].keys()
        for name, numbers in expected[what].items():
            assert trained[what][name] == pytest.approx(numbers, rel=ALIKE, abs=ALIKE), name


def test_an_uneven_batch_is_trained_on(worlds: Any) -> None:
    """Workers with parts of different sizes train. Guards against a model that is built from a mean of both."""
    chief, other = worlds.get(2, ours=True).run("as_one.uneven")
    assert chief == other
    assert chief["losses"][1] < chief["losses"][0]
    assert chief["predicted"] == (160, 3)


def test_what_keras_cannot_do_is_refused_by_name(worlds: Any) -> None:
    """All workers get an error that names the cause before the first step, and go on. Guards against a hang, and
    against training on seven batches of ten."""
    chief, other = worlds.get(2, ours=True).run("as_one.refused")
    assert chief == other
    assert chief.pop("nothing") == " (10 steps)"
    assert len(chief) == 6
    for name, said in chief.items():
        assert said.startswith("InvalidRequest: Keras 3 cannot train or evaluate on several replicas with ")
        assert name in said
        assert said.endswith(" (0 steps)")


def test_a_loop_of_ones_own_is_translated(worlds: Any) -> None:
    """The strategy serves custom loops as TensorFlow's does. Guards against Python's `if` of a tensor in a step."""
    for worker in worlds.get(2, ours=True).run("as_one.in_a_function"):
        # Batches 0 1 | 2 3, 4 5 | 6 7 and 8 9 | 10 11: parts with a sum above 10 are doubled, then 2 is added.
        assert worker == [3.5, (4 + 5 + 12 + 14) / 4 + 2, 21.0]
