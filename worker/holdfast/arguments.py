"""The arguments of a `CheckpointManager`, checked when it is made: a run should fail at its start, not at a save.

Arguments often come from configuration files and the environment: `2.0`, `"3"`, `"false"`. A value with only one
possible meaning is accepted, as TensorFlow does; the rest is refused by name and value. Objects are judged by what they
can do, not by their class, so this module needs no TensorFlow.
"""

from __future__ import annotations

import inspect
import json
import operator
import os
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from holdfast_protos.conventions import LONGEST_WAIT
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.layout import check_checkpoint_name
from holdfast_storage.store import normalise

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Arguments:
    """The checked arguments: integers are `int`, times are `float`, and the directory is a URL."""

    checkpoint: Any
    directory: str
    max_to_keep: int | None
    keep_checkpoint_every_n_hours: float | None
    checkpoint_name: str
    step_counter: Any
    checkpoint_interval: int | None
    init_fn: Callable[[], Any] | None
    last_checkpoint_step: int | None
    per_worker: Any
    coordinator: str  # empty: none was named
    storage_options: Mapping[str, Any] | None
    blocking: bool
    save_timeout: float
    join_timeout: float
    on_divergence: str
    require_finite: bool
    takeover: bool
    write_buffer: int

    @classmethod
    def checked(cls, **given: Any) -> Arguments:
        """Check all arguments of `CheckpointManager`. Raises InvalidRequest for what cannot work."""
        _check_object("checkpoint", given["checkpoint"], "save_counter", "restore")
        if given["per_worker"] is not None:
            _check_object("per_worker", given["per_worker"], "write", "read")
        if given["init_fn"] is not None and not callable(given["init_fn"]):
            raise _wrong("init_fn", given["init_fn"], "a function, or None")
        _check_steps(given["step_counter"], given["checkpoint_interval"])
        return cls(
            checkpoint=given["checkpoint"],
            directory=_directory(given["directory"]),
            max_to_keep=_or_none(_whole, "max_to_keep", given["max_to_keep"], 1),
            keep_checkpoint_every_n_hours=_or_none(
                _seconds, "keep_checkpoint_every_n_hours", given["keep_checkpoint_every_n_hours"]
            ),
            checkpoint_name=check_checkpoint_name(_text("checkpoint_name", given["checkpoint_name"])),
            step_counter=given["step_counter"],
            checkpoint_interval=_or_none(_whole, "checkpoint_interval", given["checkpoint_interval"], 0),
            init_fn=given["init_fn"],
            last_checkpoint_step=_or_none(_whole, "last_checkpoint_step", given["last_checkpoint_step"], 0, 2**63 - 1),
            per_worker=given["per_worker"],
            coordinator=_address(given["coordinator"]),
            storage_options=_options(given["storage_options"]),
            blocking=_flag("blocking", given["blocking"]),
            save_timeout=_seconds("save_timeout", given["save_timeout"]),
            join_timeout=_seconds("join_timeout", given["join_timeout"]),
            on_divergence=_one_of("on_divergence", given["on_divergence"], ("refuse", "warn")),
            require_finite=_flag("require_finite", given["require_finite"]),
            takeover=_flag("takeover", given["takeover"]),
            write_buffer=_whole("write_buffer", given["write_buffer"], 1, 2**63 - 1),
        )


def value_of(counter: Any) -> int:
    """Return the integer that a counter is or holds. A Keras variable under a distribution strategy refuses `int()`."""
    return int(counter.numpy() if hasattr(counter, "numpy") else counter)


def integer_in(number: Any) -> int | None:
    """Return the integer that this is, or that a variable or tensor holds; None for anything else."""
    try:
        return operator.index(number.numpy() if hasattr(number, "numpy") else number)
    except TypeError:
        return None


def check_options(options: Any) -> None:
    """Raise InvalidRequest for a `tf.train.CheckpointOptions` that asks for what Holdfast cannot do."""
    for name in ("experimental_sharding_callback", "experimental_io_device", "experimental_write_callbacks"):
        if getattr(options, name, None):
            raise InvalidRequest(
                f"options.{name} cannot be combined with Holdfast, which divides the state among the workers and "
                "writes it itself: leave it out"
            )


def as_json(name: str, value: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy, as JSON gives it back, so that the program may change its own while the save is in flight."""
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(value or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{name} must be a mapping that JSON can hold: {error}", object=name) from error
    return copy


def _wrong(name: str, value: Any, what: str) -> InvalidRequest:
    return InvalidRequest(f"{name} is {reprlib.repr(value)}: it must be {what}", object=name)


def _check_object(name: str, value: Any, *members: str) -> None:
    # Not hasattr(): TensorFlow's save counter is made when it is looked at.
    if isinstance(value, type) or any(inspect.getattr_static(value, each, None) is None for each in members):
        raise _wrong(name, value, "a tf.train.Checkpoint")


def _check_steps(counter: Any, interval: Any) -> None:
    if interval is not None and counter is None:
        raise InvalidRequest("checkpoint_interval counts steps: pass step_counter as well", object="step_counter")
    # A number would never move on, so that one save would be all.
    changes = any(hasattr(counter, each) for each in ("numpy", "__index__", "__int__"))
    if counter is not None and (isinstance(counter, int | float | str) or not changes):
        raise _wrong("step_counter", counter, "a variable that counts the steps, or None")


def _directory(value: Any) -> str:
    try:
        path = os.fspath(value)
    except TypeError:
        path = None
    if not isinstance(path, str) or not path:
        raise _wrong("directory", value, "a path or a URL")
    return normalise(path)


def _or_none(check: Callable[..., _T], name: str, value: Any, *limits: int) -> _T | None:
    return None if value is None else check(name, value, *limits, also=", or None")


def _whole(name: str, value: Any, least: int, most: int = 2**31 - 1, also: str = "") -> int:
    """Return an integer from 2, 2.0 or numpy's numbers. `most` is by default what the protocol can hold."""
    number = _number(value)
    if number is None or number != number // 1 or not least <= number <= most:
        raise _wrong(name, value, ("a positive whole number" if least == 1 else f"a whole number from {least}") + also)
    return int(number)


def _seconds(name: str, value: Any, also: str = "") -> float:
    number = _number(value)
    if number is None or not 0 <= number <= LONGEST_WAIT:
        raise _wrong(name, value, f"a number from 0 to {LONGEST_WAIT:.0f}{also}")
    return float(number)


def _number(value: Any) -> int | float | None:
    """Return the number that this is or, like a tensor, holds; None for anything else, such as text or a boolean."""
    if isinstance(value, str | bytes | bytearray) or _truth(value) is not None:
        return None
    for conversion in ("__index__", "__float__"):
        try:
            number: int | float = getattr(value, conversion)()
        except (AttributeError, TypeError, ValueError):
            continue
        return number
    return None


def _truth(value: Any) -> bool | None:
    # numpy's own are no bool, and need no import to be known.
    return bool(value) if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_") else None


def _flag(name: str, value: Any) -> bool:
    truth = _truth(value)
    if truth is None:
        raise _wrong(name, value, "True or False")
    return truth


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a text")
    return value


def _one_of(name: str, value: Any, values: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in values:
        raise _wrong(name, value, " or ".join(map(repr, values)))
    return value


def _options(value: Any) -> Mapping[str, Any] | None:
    if value is not None and not (isinstance(value, Mapping) and all(isinstance(each, str) for each in value)):
        # Not the value: it may hold a password.
        raise InvalidRequest(
            f"storage_options is a {type(value).__name__}: it must be a mapping from names to values, or None",
            object="storage_options",
        )
    return value


def _address(value: Any) -> str:
    """Return HOST:PORT from the argument, else from the environment, else an empty string."""
    name, address = "coordinator", value
    if value is None:
        name, address = "HOLDFAST_COORDINATOR", os.environ.get("HOLDFAST_COORDINATOR", "")
    if not isinstance(address, str):
        raise _wrong(name, address, "HOST:PORT, or None")
    host, _, port = address.rpartition(":")
    if address and not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidRequest(f"the coordinator's address {address!r} ({name}) is not HOST:PORT", object=address)
    return address
