"""The chief's part in a restore onto parameter servers: it tells them what everybody wants, and TensorFlow where it is.

Each server reads what it wants. On the chief, TensorFlow's restore runs as it always does. Where it would read the
value of a variable from files, on the variable's device, it gets the value from the agent there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import tensorflow as tf

from holdfast.restoring.contents import Contents
from holdfast.restoring.parts import Parts
from holdfast.restoring.staging import Staged
from holdfast.restoring.wanted import Wanted
from holdfast.restoring.wants import Want
from holdfast.servers.fleet import Servers
from holdfast.servers.table import Table
from holdfast.tensorflow_internals import call_on, placed, serve_by, stop_serving
from holdfast_storage.errors import CoordinatorUnavailable, HoldfastError, SaveFailed
from holdfast_storage.lag import Wait
from holdfast_storage.layout import OBJECT_GRAPH_KEY
from holdfast_storage.logger import logger
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.store.base import Store

log = logger("holdfast")

LOOK_EVERY = 0.05
"""Seconds between two questions whether all servers have what they want."""


class Spread:
    """One restore call.

    Args:
        servers: the servers, which have all joined.
        table: what lies where now. What is created later is read when it is created.
        ordinal, target, timeout: as in `agree`.

    Raises what servers refuse, and CoordinatorUnavailable, which names those that do not answer.
    """

    def __init__(self, servers: Servers, table: Table, ordinal: int, target: str, timeout: float) -> None:
        self._servers = servers
        self._ordinal = ordinal
        self._timeout = timeout
        chief = sorted({OBJECT_GRAPH_KEY, *(each.key for each in table.written)})
        self._own = [Want(key) for key in chief]
        theirs = [
            [(held.key, None if held.extents is None else (held.whole, held.extents)) for held in each]
            for each in table.servers
        ]
        wanted = [[(key, None) for key in chief], *theirs]
        try:
            servers.everyone("restore", ordinal=ordinal, target=target, timeout=timeout, wanted=wanted)
        except SaveFailed as error:
            raise CoordinatorUnavailable(str(error), workers=error.workers, phase="restore") from error

    def stage(self, store: Store, record: CheckpointRecord, *, progress: Callable[[int], None], wait: Wait) -> Staged:
        """Read and verify the chief's part. The servers do the same with theirs, and with the rest."""
        parts = Parts(store, record, wait=wait)
        wanted = Wanted(parts, self._own, files=[OBJECT_GRAPH_KEY], progress=progress, wait=wait)
        contents = Contents(parts.manifest, False, {}, None, None)
        return Staged(record, contents, _Held(wanted, self._servers, self._ordinal, self._timeout))


class _Held:
    """What the chief has of a staged checkpoint, and the way to the servers' parts."""

    def __init__(self, wanted: Wanted, servers: Servers, ordinal: int, timeout: float) -> None:
        self._wanted = wanted
        self._servers = servers
        self._ordinal = ordinal
        self._timeout = timeout
        self._ready = self._is_settled = False
        self.folder = wanted.files.folder
        serve_by({wanted.files.prefix: self._read})

    def settle(self) -> None:
        """Let everybody drop what no variable has asked for, once: what is asked for later is not kept."""
        if not self._is_settled:
            self._is_settled = True
            self._wanted.drop()
            with suppress(HoldfastError):  # then they drop it after the next restore
                self._servers.everyone("settle", ordinal=self._ordinal)

    def close(self) -> None:
        stop_serving([self._wanted.files.prefix])
        self._wanted.close()

    def _read(self, names: Sequence[str], specs: Sequence[str], dtypes: Sequence[Any]) -> list[Any]:
        """Return tensors where TensorFlow would place the operation that reads them."""
        types = [tf.as_dtype(dtype).base_dtype for dtype in dtypes]
        device = placed()
        if device.job != "ps":
            asked = zip(names, specs, types, strict=True)
            with tf.init_scope(), tf.device("CPU:0"):
                return [tf.convert_to_tensor(self._wanted.hand_over(*each)) for each in asked]
        self._await_servers()
        wanted = [(name, spec, dtype.as_datatype_enum) for name, spec, dtype in zip(names, specs, types, strict=True)]
        request = self._servers.request("fetch", {"ordinal": self._ordinal, "asked": wanted})
        return call_on(self._servers.devices[device.task], request, result=types)

    def _await_servers(self) -> None:
        """Wait until all servers have heard that all apply what they have read, which this chief has heard already."""
        end = time.monotonic() + self._timeout
        while not self._ready:
            said = self._servers.everyone("is_restored", ordinal=self._ordinal)
            self._ready = all(said)
            if not self._ready and time.monotonic() > end:
                late = ", ".join(f"ps-{index}" for index, each in enumerate(said) if not each)
                raise CoordinatorUnavailable(f"{late} did not hear within {self._timeout:.0f} s what all restore")
            if not self._ready:
                time.sleep(LOOK_EVERY)
