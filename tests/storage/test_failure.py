"""Kinds of failure, and the way of an error to another process and back."""

from __future__ import annotations

import pytest

import holdfast.errors
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage import errors
from holdfast_storage.cluster import Task
from holdfast_storage.errors import CheckpointAbsent, HoldfastError, InvalidRequest, Kind, ReplicaDivergence
from holdfast_storage.failure import Failure
from holdfast_storage.failure_message import decode, encode

ERRORS = [getattr(holdfast.errors, name) for name in holdfast.errors.__all__]


def test_kinds_are_never_renamed() -> None:
    """These are in the logs and scripts of users, and in the messages of workers of another version. Guards against a
    rename, which no other test would notice."""
    assert {kind.name: kind.value for kind in Kind} == {
        "ERROR": "error",
        "INVALID_REQUEST": "invalid_request",
        "STORAGE": "storage",
        "CHECKPOINT_DAMAGED": "checkpoint_damaged",
        "COORDINATOR_UNAVAILABLE": "coordinator_unavailable",
        "SUPERSEDED": "superseded",
        "SAVE_FAILED": "save_failed",
        "REPLICA_DIVERGENCE": "replica_divergence",
        "UNKNOWN_GENERATION": "unknown_generation",
    }
    assert {error.__name__: error.kind for error in ERRORS} == {
        "HoldfastError": "error",
        "InvalidRequest": "invalid_request",
        "StorageError": "storage",
        "CheckpointDamaged": "checkpoint_damaged",
        "CoordinatorUnavailable": "coordinator_unavailable",
        "Superseded": "superseded",
        "SaveFailed": "save_failed",
        "ReplicaDivergence": "replica_divergence",
    }


@pytest.mark.parametrize("raised", ERRORS, ids=lambda raised: raised.__name__)
def test_an_error_comes_back_as_it_was(raised: type[HoldfastError]) -> None:
    """Class, message, workers, phase and object arrive in another process. Guards against a field that is lost on the
    way, and a user who is not told which worker it was."""
    error = raised("the disk is full", workers=["worker-2", "chief-0"], phase="write", object="ckpt-1.index")
    message = pb.Failure.FromString(encode(Failure.of(error)).SerializeToString())
    assert decode(message) == Failure.of(error)
    back = decode(message).to_error()
    assert type(back) is raised
    assert (str(back), back.workers, back.phase, back.object) == (str(error), error.workers, "write", "ckpt-1.index")


def test_every_error_has_a_kind() -> None:
    """An error of a finer class is told as one of the public classes. Guards against a new class of error that a worker
    cannot be told."""
    for name in dir(errors):
        error = getattr(errors, name)
        if isinstance(error, type) and issubclass(error, HoldfastError):
            assert issubclass(error, type(Failure.of(error("x")).to_error()))
    assert type(Failure.of(CheckpointAbsent("x")).to_error()) is holdfast.errors.CheckpointDamaged


def test_what_nobody_raises_on_purpose() -> None:
    """It is an error of no particular kind, and the message says whose log tells more. Guards against a worker that is
    told nothing of a fault of the coordinator."""
    failure = Failure.of(KeyError("x"), phase="join")
    assert failure == Failure(Kind.ERROR, "the coordinator failed: KeyError('x'); its log says where", "join")
    assert type(failure.to_error()) is HoldfastError


def test_a_message_and_a_phase_of_ones_own() -> None:
    """The message is replaced, the phase only where the error names none. Guards against a phase that hides where it
    went wrong."""
    assert Failure.of(InvalidRequest("x"), "y", "write") == Failure(Kind.INVALID_REQUEST, "y", "write")
    assert Failure.of(InvalidRequest("x", phase="vote"), phase="write") == Failure(Kind.INVALID_REQUEST, "x", "vote")


def test_a_kind_of_another_version() -> None:
    """It is an error of no particular kind. Guards against a worker that breaks at what a newer coordinator says."""
    assert decode(pb.Failure(kind="weather", message="rain")) == Failure(Kind.ERROR, "rain")


def test_variables_are_named_by_who_knows_them() -> None:
    """Positions become the names of variables, of which the first few are told. Guards against a divergence that names
    no variable, and a message that names them all."""
    diverged = Failure(Kind.REPLICA_DIVERGENCE, "7 differ", "vote", (Task("worker", 1),), positions=tuple(range(1, 8)))
    error = diverged.to_error([f"v{i}" for i in range(9)])
    assert isinstance(error, ReplicaDivergence)
    assert "7 differ: v1, v2, v3, v4, v5 and 2 more. " in str(error)
    assert "values of worker-1." in str(error)
    assert error.object == "v1"
