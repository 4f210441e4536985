"""The arguments of `CheckpointManager`: what means one thing is taken, and all else is refused where it is given."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from holdfast import keep
from holdfast.manager import Manager
from holdfast_storage.errors import InvalidRequest


class Checkpoint:
    """Can do what a tf.train.Checkpoint can, and makes its counter as late."""

    def __init__(self) -> None:
        self.counters = 0

    @property
    def save_counter(self) -> int:
        self.counters += 1
        return 0

    def __repr__(self) -> str:
        return "Checkpoint()"  # the same in each process: names of tests are made of it

    def restore(self, prefix: str) -> None: ...

    read = write = restore


class Counter:
    def __int__(self) -> int:
        return 3


def make(tmp_path: Path, **arguments: Any) -> Manager:
    defaults: dict[str, Any] = {"checkpoint": Checkpoint(), "directory": tmp_path / "run"}
    return Manager(**{**defaults, **arguments})


WRONG: list[tuple[str, Any]] = [
    *(("checkpoint", value) for value in (None, "/run", {"v": 1}, ..., Checkpoint, SimpleNamespace(restore=1))),
    *(("directory", value) for value in (None, 7, "", b"/run", Path, ["/run"])),
    *(("max_to_keep", value) for value in (0, -1, 2.5, "3", "", True, [3], float("nan"), float("inf"), 1 << 31, 2j)),
    *(("keep_checkpoint_every_n_hours", value) for value in ("2", -1.0, False, [1], float("nan"), float("inf"))),
    *(("checkpoint_name", value) for value in (None, 7, b"ckpt", "", "a/b", Path("ckpt"))),
    *(("step_counter", value) for value in (3, 2.0, "step", [], ...)),
    *(("checkpoint_interval", value) for value in ("100", -1, 1.5, True, "")),
    *(("init_fn", value) for value in ("initialise", 3, [])),
    *(("last_checkpoint_step", value) for value in ("7", -1, 0.5, 1 << 63)),
    *(("per_worker", value) for value in ("iterator", {"iterator": 1}, ..., Checkpoint)),
    *(("cluster_resolver", value) for value in ("slurm", {"worker": ["a:1"]}, Checkpoint())),
    *(("coordinator", value) for value in (7070, "host", "host:", ":7070", "host:x", "host:70707", "host:²", b"h:1")),
    *(("storage_options", value) for value in ("key=secret", [("key", "secret")], {1: "secret"})),
    *((name, value) for name in ("blocking", "require_finite", "takeover") for value in ("false", 0, 1, None, [])),
    *((name, value) for name in ("save_timeout", "join_timeout") for value in ("600", None, -1, True, float("nan"))),
    *(("on_divergence", value) for value in (None, "ignore", True, ["warn"])),
    *(("write_buffer", value) for value in ("256", None, 0, 1, 1.5, True)),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=repr)
def test_wrong_ones_are_refused_by_name(tmp_path: Path, name: str, value: Any) -> None:
    """Wrong arguments are refused by name and value. Guards against an error at the first save, an hour later, that
    names neither."""
    arguments = {"step_counter": Counter()} if name == "checkpoint_interval" else {}
    with pytest.raises(InvalidRequest, match=name.replace("coordinator", "coordinator( is|'s)")) as raised:
        make(tmp_path, **arguments, **{name: value})
    assert "secret" not in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [2, 2.0, np.int64(2), np.float32(2.0), np.array(2), Decimal(2)], ids=repr)
def test_whole_numbers_are_taken(tmp_path: Path, value: Any) -> None:
    """Integers are accepted in any form. Guards against a 2.0 from a configuration file, which TensorFlow takes, and at
    which each save fails."""
    made = make(
        tmp_path,
        max_to_keep=value,
        keep_checkpoint_every_n_hours=value,
        step_counter=Counter(),
        checkpoint_interval=value,
        last_checkpoint_step=value,
        save_timeout=value,
        join_timeout=value,
        write_buffer=value * (1 << 25),
        blocking=np.bool_(True),
    )
    assert repr(made._terms.keep) == "holdfast.keep.newest(2) | holdfast.keep.every(hours=2)"
    assert made._terms.save_timeout == 2.0
    assert (made.checkpoint_interval, made.last_checkpoint_step) == (2, 2)
    made.close()


def test_nothing_is_made_or_looked_at(tmp_path: Path) -> None:
    """Checking arguments makes nothing. Guards against a save counter that TensorFlow makes outside of the strategy's
    scope because a check asked for it."""
    checkpoint = Checkpoint()
    make(tmp_path, checkpoint=checkpoint, per_worker=checkpoint, max_to_keep=None).close()
    assert checkpoint.counters == 0


def test_an_address_from_the_environment_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong address from the environment is named as such. Guards against an error about an address that the program
    never gave."""
    monkeypatch.setitem(os.environ, "HOLDFAST_COORDINATOR", "nowhere")
    with pytest.raises(InvalidRequest, match=r"'nowhere' \(HOLDFAST_COORDINATOR"):
        make(tmp_path)
    make(tmp_path, coordinator="").close()


def test_an_interval_needs_its_counter(tmp_path: Path) -> None:
    """`checkpoint_interval` needs `step_counter`. Guards against an interval in which no step is ever counted."""
    with pytest.raises(InvalidRequest, match="pass step_counter"):
        make(tmp_path, checkpoint_interval=5)


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"max_to_keep": 5}, "newest"),
        ({"max_to_keep": None}, "newest"),
        ({"keep_checkpoint_every_n_hours": 1.0}, "every"),
    ],
)
def test_one_way_to_say_what_to_keep(tmp_path: Path, arguments: dict[str, Any], rule: str) -> None:
    """`keep` beside an argument that stands for one of its rules is refused, even with its default, and the error names
    the rule. Guards against a limit that is silently not heeded."""
    kept = keep.best(1, "loss")
    with pytest.raises(InvalidRequest, match=rf"leave {next(iter(arguments))} out, .*holdfast\.keep\.{rule}\("):
        make(tmp_path, keep=kept, **arguments)
    with pytest.raises(InvalidRequest, match=r"keep is 5: it must be made of the rules in holdfast\.keep"):
        make(tmp_path, keep=5)
    made = make(tmp_path, keep=kept)
    assert made._terms.keep == kept
    made.close()
