"""How a call that is refused ends: a gRPC status, with the failure in the trailing metadata."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio

from holdfast_protos.conventions import FAILURE_TRAILER
from holdfast_storage.errors import HoldfastError
from holdfast_storage.failure import Failure
from holdfast_storage.failure_message import encode
from holdfast_storage.logger import logger
from holdfast_storage.printable import printable

from .driver import Refused
from .wire import STATUS_OF_KIND

log = logger("holdfast.coordinator")

T = TypeVar("T")

Context = Any  # grpc.aio's context is generic in two private types


class NotAdmitted(Exception):
    """The caller has not proven what it must. Its proof may be for an earlier coordinator: a worker introduces itself
    again, so it gets no failure."""


class NotNow(Exception):
    """The coordinator cannot read the run's key yet, or is too busy. A worker asks again.

    Attributes:
        failure: that of the storage. A worker that has not joined yet is told at once.
    """

    def __init__(self, message: str, failure: Failure | None = None) -> None:
        super().__init__(message)
        self.failure = failure


@contextmanager
def quietly() -> Iterator[None]:
    """Answer a call that gRPC may have ended itself, for example since it is compressed: it would log a traceback."""
    try:
        yield
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None


async def abort(error: Exception, context: Context) -> NoReturn:
    match error:
        case NotAdmitted():
            code, words, trailer = grpc.StatusCode.UNAUTHENTICATED, str(error), None
        case NotNow():
            code, words, trailer = grpc.StatusCode.UNAVAILABLE, str(error), None
        case _:
            failure = error.failure if isinstance(error, Refused) else Failure.of(error)
            told = encode(failure)
            code = STATUS_OF_KIND.get(failure.kind, grpc.StatusCode.UNKNOWN)
            words, trailer = told.message, told.SerializeToString()
    with quietly():
        await context.abort(code, printable(words, 1000), ((FAILURE_TRAILER, trailer),) if trailer else ())
    raise AssertionError("abort raises")


async def answer(call: Awaitable[T], context: Context) -> T:
    """Return what a call returns, or end it as refused."""
    try:
        return await call
    except (Refused, NotAdmitted, NotNow, HoldfastError) as refusal:
        await abort(refusal, context)
    except Exception as error:
        # This is an answer: the worker would repeat for ever a call that merely broke.
        log.exception("a call failed")
        await abort(error, context)
