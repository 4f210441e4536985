"""The arguments of a `CheckpointManager`, checked when it is made: a run should fail at its start, not at a save.

Arguments often come from configuration files and the environment: `2.0`, `"3"`, `"false"`. A value with only one
possible meaning is accepted, as TensorFlow does; the rest is refused by name and value. Objects are judged by what they
can do, not by their class, so this module needs no TensorFlow.
"""

from __future__ import annotations

import inspect
import json
import math
import operator
import os
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import Any, TypeVar

from holdfast.incremental import Incremental
from holdfast.keep import Policy, shorthand
from holdfast.preemption import Preemption
from holdfast.save_interval import YoungDaly
from holdfast_protos.conventions import LONGEST_WAIT
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.layout import check_checkpoint_name
from holdfast_storage.store import normalise

_T = TypeVar("_T")


class _Default(int):
    """A number that nobody has given: it can be told from an equal one that somebody has."""


MAX_TO_KEEP = _Default(5)

_SHORT = (("max_to_keep", MAX_TO_KEEP, "newest(...)"), ("keep_checkpoint_every_n_hours", None, "every(hours=...)"))
"""The arguments that stand for rules, with their defaults."""


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


def as_metrics(value: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy, as `as_json` does. A number may be of any kind, such as a tensor; NaN and infinity become None."""
    return as_json("metrics", {name: _metric(each) for name, each in dict(value or {}).items()})


def _metric(value: Any) -> Any:
    number = _number(value)
    if number is None:
        return value
    return number if isinstance(number, int) or math.isfinite(number) else None


def _wrong(name: str, value: Any, what: str) -> InvalidRequest:
    return InvalidRequest(f"{name} is {reprlib.repr(value)}: it must be {what}", object=name)


def _object(name: str, value: Any, *members: str, also: str = "") -> Any:
    # Not hasattr(), since TensorFlow makes its save counter when it is looked at.
    if isinstance(value, type) or any(inspect.getattr_static(value, each, None) is None for each in members):
        raise _wrong(name, value, "a tf.train.Checkpoint" + also)
    return value


def _resolver(name: str, value: Any, also: str = "") -> Any:
    if isinstance(value, type) or not hasattr(value, "cluster_spec"):
        raise _wrong(name, value, "a tf.distribute.cluster_resolver.ClusterResolver" + also)
    return value


def _function(name: str, value: Any, also: str = "") -> Any:
    if not callable(value):
        raise _wrong(name, value, "a function" + also)
    return value


def _anything(_: str, value: Any) -> Any:
    return value


def _check_steps(counter: Any, interval: Any) -> None:
    if interval is not None and counter is None:
        raise InvalidRequest("checkpoint_interval counts steps: pass step_counter as well", object="step_counter")
    # A plain number would never change, so there would be only one save.
    changes = any(hasattr(counter, each) for each in ("numpy", "__index__", "__int__"))
    if counter is not None and (isinstance(counter, int | float | str) or not changes):
        raise _wrong("step_counter", counter, "a variable that counts the steps, or None")


def _directory(name: str, value: Any) -> str:
    try:
        path = os.fspath(value)
    except TypeError:
        path = None
    if not isinstance(path, str) or not path:
        raise _wrong(name, value, "a path or a URL")
    return normalise(path)


def _or_none(name: str, value: Any, check: Callable[..., _T], *limits: Any) -> _T | None:
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
    # numpy's booleans are no `bool`, and are recognised without importing numpy.
    return bool(value) if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_") else None


def _flag(name: str, value: Any) -> bool:
    truth = _truth(value)
    if truth is None:
        raise _wrong(name, value, "True or False")
    return truth


def _checkpoint_name(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a text")
    return check_checkpoint_name(value)


def _one_of(name: str, value: Any, *values: str) -> str:
    if not isinstance(value, str) or value not in values:
        raise _wrong(name, value, " or ".join(map(repr, values)))
    return value


def _options(name: str, value: Any) -> Mapping[str, Any] | None:
    if value is not None and not (isinstance(value, Mapping) and all(isinstance(each, str) for each in value)):
        # The value is not shown: it may hold a password.
        raise InvalidRequest(
            f"{name} is a {type(value).__name__}: it must be a mapping from names to values, or None", object=name
        )
    return value


def _keep(name: str, value: Any, also: str = "") -> Policy:
    if not isinstance(value, Policy):
        raise _wrong(name, value, "made of the rules in holdfast.keep, such as holdfast.keep.newest(5)" + also)
    return value


def _address(name: str, value: Any) -> str:
    """Return HOST:PORT from the argument, else from the environment, else an empty string."""
    address = value
    if value is None:
        name, address = "HOLDFAST_COORDINATOR", os.environ.get("HOLDFAST_COORDINATOR", "")
    if not isinstance(address, str):
        raise _wrong(name, address, "HOST:PORT, or None")
    host, _, port = address.rpartition(":")
    if address and not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidRequest(f"the coordinator's address {address!r} ({name}) is not HOST:PORT", object=address)
    return address


def _interval(name: str, value: Any, also: str = "") -> timedelta | YoungDaly:
    if isinstance(value, YoungDaly):
        return value
    if not isinstance(value, timedelta) or not 0 < value.total_seconds() <= LONGEST_WAIT:
        raise _wrong(
            name,
            value,
            "a datetime.timedelta of more than nothing, and at most a year, or holdfast.young_daly()" + also,
        )
    return value


def _preemption(name: str, value: Any, also: str = "") -> Preemption:
    if not isinstance(value, Preemption):
        raise _wrong(name, value, "a holdfast.Preemption" + also)
    return value


def _incremental(name: str, value: Any, also: str = "") -> Incremental:
    if not isinstance(value, Incremental):
        raise _wrong(name, value, "a holdfast.Incremental, such as holdfast.Incremental(full_every=20)" + also)
    return value


def _by(check: Callable[..., Any], *limits: Any) -> Mapping[str, Any]:
    """Return the metadata of a field whose value is `check(argument's name, value given, *limits)`."""
    return {"check": lambda name, value: check(name, value, *limits)}


@dataclass(frozen=True, slots=True)
class Arguments:
    """The checked arguments: integers are `int`, times are `float`, and the directory is a URL."""

    checkpoint: Any = field(metadata=_by(_object, "save_counter", "restore"))
    directory: str = field(metadata=_by(_directory))
    max_to_keep: int | None = field(metadata=_by(_or_none, _whole, 1))
    keep_checkpoint_every_n_hours: float | None = field(metadata=_by(_or_none, _seconds))
    checkpoint_name: str = field(metadata=_by(_checkpoint_name))
    step_counter: Any = field(metadata=_by(_anything))
    checkpoint_interval: int | None = field(metadata=_by(_or_none, _whole, 0))
    init_fn: Callable[[], Any] | None = field(metadata=_by(_or_none, _function))
    last_checkpoint_step: int | None = field(metadata=_by(_or_none, _whole, 0, 2**63 - 1))
    per_worker: Any = field(metadata=_by(_or_none, _object, "write", "read"))
    cluster_resolver: Any = field(metadata=_by(_or_none, _resolver))
    coordinator: str = field(metadata=_by(_address))  # empty: none was named
    storage_options: Mapping[str, Any] | None = field(metadata=_by(_options))
    blocking: bool = field(metadata=_by(_flag))
    save_timeout: float = field(metadata=_by(_seconds))
    join_timeout: float = field(metadata=_by(_seconds))
    on_divergence: str = field(metadata=_by(_one_of, "refuse", "warn"))
    require_finite: bool = field(metadata=_by(_flag))
    takeover: bool = field(metadata=_by(_flag))
    write_buffer: int = field(metadata=_by(_whole, 1, 2**63 - 1))
    keep: Policy = field(metadata=_by(_or_none, _keep))
    preemption: Preemption | None = field(metadata=_by(_or_none, _preemption))
    save_every: timedelta | YoungDaly | None = field(metadata=_by(_or_none, _interval))
    incremental: Incremental | None = field(metadata=_by(_or_none, _incremental))

    @classmethod
    def checked(cls, **given: Any) -> Arguments:
        """Check all arguments of `CheckpointManager`. Raises InvalidRequest for what cannot work."""
        _check_steps(given["step_counter"], given["checkpoint_interval"])
        checked = cls(**{each.name: each.metadata["check"](each.name, given[each.name]) for each in fields(cls)})
        if given["keep"] is None:
            return replace(checked, keep=shorthand(checked.max_to_keep, checked.keep_checkpoint_every_n_hours))
        for name, default, rule in _SHORT:
            if given[name] is not default:
                raise InvalidRequest(
                    f"keep and {name} are both given: leave {name} out, and say it in keep: "
                    f"keep=holdfast.keep.{rule} | ...",
                    object="keep",
                )
        return checked
