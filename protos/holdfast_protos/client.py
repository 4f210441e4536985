"""A client's connection to a coordinator."""

from __future__ import annotations

import secrets
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TypeVar

import grpc

from holdfast_protos import credential_files, proofs, tls
from holdfast_protos.conventions import (
    CONNECTION,
    FAILURE_TRAILER,
    HELLO_HEADER,
    LARGEST_TRAILER,
    PROOF_HEADER,
    RUN_HEADER,
    SECRET_HEADER,
    TOKEN_HEADER,
    UNIX,
)
from holdfast_protos.credential_files import UnusableFile
from holdfast_protos.settings import INSECURE, TOKEN_FILE, Settings
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_protos.v1 import coordinator_pb2_grpc as rpc

try:
    from grpc._cython.cygrpc import fork_unregister_channel  # type: ignore[import-not-found]
except ImportError:  # a private name, which a release may drop
    fork_unregister_channel = None

T = TypeVar("T")

CHANNEL_OPTIONS = [
    *CONNECTION,
    # A refusal carries what every worker had to say, in its trailer.
    ("grpc.max_metadata_size", LARGEST_TRAILER),
    ("grpc.absolute_max_metadata_size", LARGEST_TRAILER),
    ("grpc.http2.max_pings_without_data", 0),
    # Reconnecting is a matter of a moment, not of gRPC's two minutes: a save waits for it.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
    # A proxy between hosts of a cluster is never what was meant.
    ("grpc.enable_http_proxy", 0),
]

PATIENCE = 3.0
"""Seconds to wait for an answer."""


class Unreachable(Exception):
    """The coordinator did not answer, or did not prove that it is one of the run.

    Attributes:
        code: the name of gRPC's status; empty if the call was not even made.
        details: gRPC's own words.
    """

    def __init__(self, message: str, code: str = "", details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.details = details


class NoTLS(Unreachable):
    """What listens there does not speak TLS: it is no coordinator, or one that was started with --insecure."""


class Distrusted(Unreachable):
    """One side does not believe the other, and a person has to do something about it. The message says what.

    Attributes:
        final: whether waiting does not help. Otherwise files may be about to be replaced, at this end or the other.
    """

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class Refusal(Exception):
    """The coordinator refused the call."""

    def __init__(self, failure: pb.Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Access:
    """What a client shows to the coordinators of a run, and what it believes them by."""

    run: str  # URL of the run directory
    key: Callable[[], bytes]  # returns the run's key, which is read only if it is needed
    secret: bytes = b""  # of this process; empty for who only asks
    settings: Settings = field(default_factory=Settings)


class Link:
    """A coordinator at an address. Calls raise Unreachable or Refusal; `timeout` is in seconds.

    Making one connects, and raises what a call raises if nobody answers who reads the run's key.

    Attributes:
        run: the URL of the run directory, as the coordinator names it.
        broken: whether a call has found the connection or the coordinator's process gone. Only a new link may work.
    """

    def __init__(self, address: str, access: Access) -> None:
        self.address = address
        self.broken = False
        self._insecure = access.settings.insecure
        self._token = b""  # what is shown in place of a proof
        self._channel, certificate = self._connect(access.settings)
        # No fork uses it. Under GRPC_ENABLE_FORK_SUPPORT, gRPC would cancel its calls in each, and can hang for ever.
        # An older gRPC, which has no `_postfork_child`, closes channels instead, and ends a fork that keeps one open.
        if fork_unregister_channel and hasattr(self._channel, "_postfork_child"):
            fork_unregister_channel(self._channel)
        self._stub = rpc.CoordinatorStub(self._channel)
        self.run, shown = access.run, (PROOF_HEADER, b"")
        if not access.settings.insecure:
            try:
                self.run, shown = self._introduced(access, certificate)
            except BaseException:
                self.close()
                raise
        self._metadata = ((RUN_HEADER, self.run.encode()), shown, (SECRET_HEADER, access.secret))

    def _connect(self, settings: Settings) -> tuple[grpc.Channel, bytes]:
        """Return a channel, and the fingerprint of the one certificate that it accepts: empty if there is none. That of
        a socket is made of its address, which nobody else can listen at."""
        if settings.insecure or self.address.startswith(UNIX):
            certificate = tls.fingerprint(self.address.encode())
            return grpc.insecure_channel(self.address, options=CHANNEL_OPTIONS), certificate
        try:
            peer = tls.meet(self.address, settings, PATIENCE)
        except tls.Distrust as error:
            raise Distrusted(str(error)) from None
        except TimeoutError as error:
            raise self._unreachable("DEADLINE_EXCEEDED", str(error)) from None
        except ssl.SSLError as error:
            why = (
                f"no coordinator answers at {self.address}: no TLS is spoken there. It may be another program, an "
                f"older Holdfast, or a coordinator with --insecure, which is spoken to only if {INSECURE}=1"
            )
            raise NoTLS(why, "UNKNOWN", str(error)) from None
        except (OSError, ValueError) as error:
            raise self._unreachable("UNAVAILABLE", str(error)) from None
        options = [*CHANNEL_OPTIONS, *([("grpc.ssl_target_name_override", peer.name)] if peer.name else [])]
        return grpc.secure_channel(self.address, peer.credentials, options), peer.fingerprint

    def _introduced(self, access: Access, certificate: bytes) -> tuple[str, tuple[str, bytes]]:
        """Let the coordinator prove that it reads the run's key, unless a CA vouches for it.

        Return its name of the run, and what we show it with each call.
        """
        vouched = bool(access.settings.ca) and not self.address.startswith(UNIX)
        request = pb.HelloRequest(run=access.run, certificate=certificate)
        key = b""
        if not vouched or not (access.secret or access.settings.token_file):
            key = access.key()
        if not vouched:
            request.nonce = secrets.token_bytes(16)
        if key and (not access.secret or self.address.startswith(UNIX)):
            request.key_id = proofs.key_id(key)
        metadata = ((HELLO_HEADER, request.SerializeToString()),)
        reply = self._call(lambda: self._stub.Hello(pb.Nothing(), timeout=PATIENCE, metadata=metadata))
        if not vouched:
            proof = proofs.of_coordinator(key, reply.coordinator, certificate, request.nonce)
            if not proofs.same(reply.proof, proof):
                raise Unreachable(
                    f"what answers at {self.address} does not prove that it reads the key of {access.run}: it sees "
                    "another directory there, or is not a coordinator of this run"
                )
        if reply.token_wanted and (access.secret or access.settings.token_file):
            self._token = self._read_token(access.settings.token_file)
            return reply.run, (TOKEN_HEADER, self._token)
        return reply.run, (PROOF_HEADER, proofs.of_worker(key or access.key(), reply.coordinator))

    def _read_token(self, path: str) -> bytes:
        """Return the token in a file. Raises Distrusted."""
        if not path:
            why = (
                f"the coordinator at {self.address} wants a token: set {TOKEN_FILE} to the path of a file that holds it"
            )
            raise Distrusted(why, final=True)
        try:
            token = credential_files.read(path, secret=True).strip()
        except UnusableFile as error:
            raise Distrusted(f"{TOKEN_FILE}: {error}", final=True) from None
        if not token:
            raise Distrusted(f"{TOKEN_FILE}: {path} is empty", final=True)
        return token

    def join(self, request: pb.JoinRequest, timeout: float) -> pb.JoinReply:
        return self._call(lambda: self._stub.Join(request, timeout=timeout, metadata=self._metadata))

    def vote(self, request: pb.VoteRequest, timeout: float) -> pb.VoteReply:
        return self._call(lambda: self._stub.Vote(request, timeout=timeout, metadata=self._metadata))

    def report(self, chunks: list[pb.ReportChunk], timeout: float) -> pb.SaveOutcome:
        return self._call(lambda: self._stub.Report(iter(chunks), timeout=timeout, metadata=self._metadata))

    def fail(self, request: pb.FailRequest, timeout: float) -> pb.SaveOutcome:
        return self._call(lambda: self._stub.Fail(request, timeout=timeout, metadata=self._metadata))

    def restore(self, request: pb.RestoreRequest, timeout: float) -> pb.RestoreReply:
        return self._call(lambda: self._stub.Restore(request, timeout=timeout, metadata=self._metadata))

    def examined(self, request: pb.ExaminedRequest, timeout: float) -> pb.ExaminedReply:
        return self._call(lambda: self._stub.Examined(request, timeout=timeout, metadata=self._metadata))

    def await_upkeep(self, request: pb.AwaitUpkeepRequest, timeout: float) -> pb.AwaitUpkeepReply:
        return self._call(lambda: self._stub.AwaitUpkeep(request, timeout=timeout, metadata=self._metadata))

    def leave(self, request: pb.LeaveRequest, timeout: float) -> pb.LeaveReply:
        return self._call(lambda: self._stub.Leave(request, timeout=timeout, metadata=self._metadata))

    def request_save(self, request: pb.SaveRequest, timeout: float) -> pb.Decision:
        return self._call(lambda: self._stub.RequestSave(request, timeout=timeout, metadata=self._metadata))

    def status(self, request: pb.StatusRequest, timeout: float) -> pb.StatusReply:
        return self._call(lambda: self._stub.Status(request, timeout=timeout, metadata=self._metadata))

    def attend(self, beats: Iterator[pb.Heartbeat]) -> Iterator[pb.Notice]:
        """Be present for as long as `beats` goes on, and yield notices."""
        call = self._call(lambda: self._stub.Attend(beats, metadata=self._metadata))
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._translated(error) from None
        finally:
            call.cancel()

    def close(self) -> None:
        self._channel.close()

    def _call(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except grpc.RpcError as error:
            raise self._translated(error) from None
        except ValueError as error:
            # What gRPC raises for a call on a channel that another thread has closed, on its way to another address.
            raise Unreachable(f"no longer at {self.address} ({error})") from None

    def _translated(self, error: grpc.RpcError) -> Unreachable | Refusal:
        assert isinstance(error, grpc.Call)
        for key, value in error.trailing_metadata() or ():
            if key == FAILURE_TRAILER:
                return Refusal(pb.Failure.FromString(value if isinstance(value, bytes) else value.encode("latin-1")))
        code, details = error.code().name, error.details() or "no answer"
        self.broken |= code in ("UNAVAILABLE", "UNAUTHENTICATED")
        if code == "UNAUTHENTICATED" and self._token:
            why = f"the coordinator at {self.address} does not accept our token: {details}"
            return Distrusted(f"{why}. Check the file that {TOKEN_FILE} names", final=True)
        return self._unreachable(code, details)

    def _unreachable(self, code: str, details: str) -> Unreachable:
        # Where a call only took too long, the coordinator may be there, and wait for its storage itself.
        late = ", or its storage does not answer it" if code == "DEADLINE_EXCEEDED" else ""
        plain = f". {INSECURE} is set, so one that speaks TLS is not understood" if self._insecure else ""
        why = f"no coordinator answers at {self.address}{late} ({code}: {details}){plain}"
        return Unreachable(why, code, details)


def ask(address: str, access: Access, *, anybody: bool = False) -> pb.StatusReply:
    """Ask the coordinator at an address for the status of a run.

    anybody: whether one that was started with --insecure is asked as well, who may be anybody. What it says is for a
        person.

    Raises Unreachable if none answers within a few seconds, and Refusal if it does not know the run.
    """
    try:
        made = Link(address, access)
    except NoTLS:
        if not anybody or access.settings.ca or access.settings.token_file:
            raise  # who has these means no other
        made = Link(address, replace(access, settings=Settings(insecure=True)))
    with closing(made) as link:
        return link.status(pb.StatusRequest(run=link.run), PATIENCE)


def is_of_another_host(address: str, host: str) -> bool:
    """Return whether an address means another host's own, so that somebody else answers at it here, or nobody."""
    return address.startswith((UNIX, "127.", "localhost", "[::1]")) and host != socket.gethostname()


def is_listening(address: str, patience: float) -> bool:
    """Return whether connecting works. The kernel accepts connections even for a process that is stopped."""
    try:
        if address.startswith(UNIX):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(patience)
                connection.connect("\0" + address.removeprefix(UNIX))
        else:
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), patience).close()
    except OSError:
        return False
    return True
