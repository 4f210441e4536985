"""Puts the stand-ins into the product's modules, and takes them out again.

Every module of the product that holds `threading`, `time`, `secrets`, `socket`, `SimpleQueue` or `grpc` under a name of
its own gets the stand-in under that name. Beyond that, sizes are made small, so that a state of a few hundred bytes is
sliced, written in several chunks and read in several parts, and two checkpoints are enough for a page of the log; what
needs TensorFlow is replaced (`simulation.training`).
"""

from __future__ import annotations

import gc
import logging
import os
import queue
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import grpc

import holdfast.manager
import holdfast.reading
import holdfast.restoring.agree
import holdfast.restoring.staging
import holdfast.saving.digest
import holdfast.saving.increments
import holdfast.saving.plan
import holdfast.saving.save
import holdfast.saving.tables
import holdfast.saving.write
import holdfast.session.identity
import holdfast.session.lane
import holdfast.session.open_sessions
import holdfast.session.session
import holdfast.world
import holdfast_coordinator.calls
import holdfast_coordinator.driver
import holdfast_coordinator.embedded
import holdfast_coordinator.grpc_servicer
import holdfast_coordinator.served_runs
import holdfast_coordinator.server
import holdfast_coordinator.threads
import holdfast_protos.tls
import holdfast_storage.checkpoint.verify
import holdfast_storage.log.holding
import holdfast_storage.log.log
import holdfast_storage.log.pages
import holdfast_storage.parallel
from holdfast_storage.errors import HoldfastError
from simulation import fakes, preemption, training
from simulation.embedded import Embedded
from simulation.network import fake_grpc
from simulation.storage import URL

MEMORY = "/dev/shm"  # where staged files go, if it is there

PACKAGES = ("holdfast", "holdfast_coordinator", "holdfast_protos", "holdfast_storage")

GENERATED = "holdfast_protos.v1"

SIZES = {
    (holdfast.saving.plan, "_TOLERANCE_FLOOR"): 16,
    (holdfast.saving.plan, "_SPLIT_FROM"): 200,
    (holdfast.saving.plan, "_OBJECT_SIZE"): 200,
    (holdfast.saving.tables, "FEWEST_ROWS"): 4,
    (holdfast.saving.tables, "LEAST_SIZE"): 1,
    (holdfast.saving.write, "_CHUNK"): 96,
    (holdfast.saving.write, "_SMALL"): 64,
    (holdfast.saving.write, "_JOIN"): 80,
    (holdfast_storage.checkpoint.verify, "_PART"): 256,
    (holdfast_storage.log.pages, "FEWEST"): 2,
    (holdfast_storage.log.pages, "_BITS"): 1,
    (holdfast_coordinator.threads, "IDLE_FOR"): 0.5,
    # A create that is given up so soon may land long afterwards.
    (holdfast_coordinator.driver, "PUBLISH_FOR"): 1.0,
    (holdfast_storage.log.holding, "PUBLISH_FOR"): 1.0,
    (holdfast_coordinator.driver, "DESERTED_FOR"): 2.0,
    (holdfast_coordinator.driver, "IDLE_TICK"): 0.5,
}


def product_modules() -> Iterator[ModuleType]:
    """Yield the product's modules that are imported by now."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in PACKAGES and not name.startswith(GENERATED) and module is not None:
            yield module


def _open_store(url: str, options: object = None, **_: object) -> Any:
    assert url == URL, f"{url} is not the simulated run"
    return fakes.here().store


def _nameless() -> Any:
    return os.fdopen(os.memfd_create("staged"), "w+b")


class _Unexpected(logging.Handler):
    """Errors that the product has caught and logged, and did not expect."""

    def emit(self, record: logging.LogRecord) -> None:
        process = fakes.Now.scheduler.current
        if process is None or not process.alive:
            return
        training.told(process, record.getMessage())
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, HoldfastError) and "start new thread" not in str(error):
            training.broke(process, record.getMessage(), error)


class Secrets:
    """Stands for `holdfast.session.identity._secrets`, of the process whose turn it is."""

    def setdefault(self, key: object, value: bytes) -> bytes:
        return fakes.here().memory.secrets.setdefault(key, value)


def _certificate() -> Any:
    """Stands for `certificate.self_made`: the fingerprint is the certificate."""
    chain = fakes.secrets.token_bytes(8)
    return SimpleNamespace(key=b"", chain=chain, fingerprint=chain)


class _Managers:
    """Stands for `holdfast.session.session._incarnations`, likewise."""

    def __next__(self) -> int:
        memory = fakes.here().memory
        memory.managers += 1
        return memory.managers


def _of_dataclasses(module: ModuleType) -> Iterator[tuple[object, str, object]]:
    """What the fields of a module's dataclasses are made of: kept by their constructors, apart from any name."""
    for each in list(vars(module).values()):
        if isinstance(each, type) and each.__module__ == module.__name__ and is_dataclass(each):
            for cell in each.__init__.__closure__ or ():
                if cell.cell_contents is threading.Lock:
                    yield cell, "cell_contents", fakes.Lock


def _replacements() -> Iterator[tuple[object, str, object]]:
    stands_for: dict[int, object] = {
        id(threading): fakes.threading,
        id(time): fakes.time,
        id(secrets): fakes.secrets,
        id(socket): fakes.socket,
        id(grpc): fake_grpc(training.network),
        id(queue.SimpleQueue): fakes.SimpleQueue,
    }
    for module in product_modules():
        yield from _of_dataclasses(module)
        for name, value in list(vars(module).items()):
            if id(value) in stands_for:
                yield module, name, stands_for[id(value)]
            elif isinstance(value, type(threading.Lock())):
                yield module, name, fakes.ModuleLock()
    for (module, name), value in SIZES.items():
        yield module, name, value
    for module in (holdfast.manager, holdfast.reading, holdfast.restoring.agree, holdfast_coordinator.served_runs):
        yield module, "open_store", _open_store
    manager = holdfast.manager
    yield manager, "find_this_task", lambda *_: fakes.here().this_task
    yield manager, "Save", training.WatchedSave
    yield holdfast.world, "strategy_name", lambda checkpoint: "simulated"
    yield holdfast.session.open_sessions, "_open", {}
    yield holdfast.session.identity, "_of_kernel", lambda: fakes.here().name
    yield holdfast.session.identity, "_secrets", Secrets()
    yield holdfast_protos.tls, "meet", lambda address, settings, timeout: training.network().meet(address)
    yield holdfast_coordinator.server, "self_made", _certificate
    yield holdfast.session.session, "_incarnations", _Managers()
    yield holdfast.saving.save, "versions", lambda: {"holdfast": "simulated"}
    yield holdfast.saving.save, "git_commit", lambda: ""
    yield holdfast_coordinator.embedded, "Embedded", Embedded
    if os.path.isdir(MEMORY):
        yield tempfile, "tempdir", MEMORY
    yield (
        holdfast.restoring.staging,
        "tempfile",
        SimpleNamespace(mkdtemp=tempfile.mkdtemp, gettempdir=tempfile.gettempdir, TemporaryFile=_nameless),
    )
    yield (
        holdfast_storage.log.log.Log.__init__,
        "__kwdefaults__",
        {
            "clock": fakes.time.monotonic,
            "sleep": fakes.time.sleep,
        },
    )


@contextmanager
def installed() -> Iterator[None]:
    """The product runs in a simulation inside this."""
    saved: list[tuple[object, str, object]] = []
    modules = {"holdfast.saving.capture": training.CAPTURE, "holdfast.restoring.apply": training.RESTORE}
    before = {name: sys.modules.get(name) for name in modules}
    logger, handler = logging.getLogger("holdfast"), _Unexpected(logging.WARNING)
    level, propagate = logger.level, logger.propagate
    hook = sys.unraisablehook
    try:
        for target, name, value in _replacements():
            saved.append((target, name, getattr(target, name)))
            setattr(target, name, value)
        preemption.Installed.functions = preemption.Instrumented(product_modules())
        sys.modules.update(modules)
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        # What a killed process leaves is torn down object by object; its last words are nobody's.
        sys.unraisablehook = training.unraisable
        yield
    finally:
        gc.collect()
        sys.unraisablehook = hook
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
        for target, name, value in reversed(saved):
            setattr(target, name, value)


def times_that_are_kept() -> list[str]:
    """Functions of the product whose defaults are real clocks: the modules' names say nothing of these."""
    kept: list[str] = []
    for module in product_modules():
        for each in vars(module).values():
            functions = [each, *vars(each).values()] if isinstance(each, type) else [each]
            kept += [f.__qualname__ for f in functions if isinstance(f, FunctionType) and _keeps_time(f)]
    return kept


def _keeps_time(function: Callable[..., object]) -> bool:
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return any(getattr(value, "__module__", "") == "time" for value in defaults)
