"""How a call that is refused ends: a gRPC status, with the failure in the trailing metadata."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, NoReturn, TypeVar

import grpc

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
    """The coordinator cannot read the run's key yet, or is too busy. A worker asks again."""


async def abort(error: Exception, context: Context) -> NoReturn:
    match error:
        case NotAdmitted():
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, printable(str(error), 1000), ())
        case NotNow():
            await context.abort(grpc.StatusCode.UNAVAILABLE, printable(str(error), 1000), ())
        case _:
            failure = error.failure if isinstance(error, Refused) else Failure.of(error)
            code = STATUS_OF_KIND.get(failure.kind, grpc.StatusCode.UNKNOWN)
            told = encode(failure)
            await context.abort(code, printable(told.message, 1000), ((FAILURE_TRAILER, told.SerializeToString()),))
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
