"""Who may call: an interceptor that admits a call by its metadata, before anything of it is read.

Whoever can read a run directory may take part in the run, and proves it by the run's key; nobody else may. With a
--token-file, whoever has a token may take part instead, and who can read the directory may ask for the status. What the
caller has proven is in `ADMITTED` while the call is answered. With --insecure, a coordinator admits all.

What anybody may ask, a Hello and how the coordinator is, the door answers itself by the metadata alone. A message may
be large, and gRPC keeps what has come of it until it is whole: none is taken from somebody who has proven nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from holdfast_protos import proofs
from holdfast_protos.conventions import HELLO_HEADER, PROOF_HEADER, RUN_HEADER, SECRET_HEADER, TOKEN_HEADER
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.errors import InvalidRequest

from .driver import Refused
from .refusals import Context, NotAdmitted, NotNow, abort, answer, quietly
from .run_keys import RunKeys
from .tokens import EVERY_RUN, Tokens

HELLO = "/holdfast_protos.v1.Coordinator/Hello"
HEALTH = "/grpc.health.v1.Health/Check"

STATUS = "/holdfast_protos.v1.Coordinator/Status"


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a caller has proven. Empty: nothing, and anything is believed."""

    run: str = ""  # the URL of the run, as the caller names it
    process: str = ""  # the name of its process
    directory: str = ""  # where the run was when it was proven

    def check_run(self, run: str) -> None:
        """Raise InvalidRequest if a call is for another run."""
        if self.run and run != self.run:
            raise InvalidRequest(f"a call for {run or 'all runs'} came with the proof for {self.run}", object="run")

    def check_directory(self, directory: str) -> None:
        """Raise NotNow if a call would reach another directory than the one that its proof is for: a link on the way to
        it has changed in between."""
        if self.directory and directory != self.directory:
            raise NotNow(f"{self.run} has just become another directory: ask again")

    def check(self, caller: pb.Caller) -> None:
        """Raise InvalidRequest if a call is for another run, or made in another's name."""
        self.check_run(caller.run)
        if self.process and caller.incarnation.rpartition(".")[0] != self.process:
            raise InvalidRequest(
                f"a call in the name of {caller.task} came from another process than the one that it names",
                workers=[caller.task],
                object="incarnation",
            )


ADMITTED: ContextVar[Admitted] = ContextVar("admitted")


class Door(grpc.aio.ServerInterceptor):
    """The interceptor of one coordinator.

    Attributes:
        keys: the keys of its runs. Set before the first call comes.
        shows: returns whether its TLS listener shows the certificate with a fingerprint.
        socket: the fingerprint of the address of its socket, which stands for a certificate there.
        own_key: of this process, which needs no storage to call its own coordinator. Empty if that is one of its own.
        serving: what those are told who ask how it is, for whichever service. Nobody can wait for a change.
    """

    keys: RunKeys

    def __init__(self, coordinator: str, tokens: Tokens | None, *, insecure: bool) -> None:
        self._coordinator = coordinator
        self._tokens = tokens
        self._insecure = insecure
        self.shows: Callable[[bytes], bool] = lambda fingerprint: False
        self.socket = self.own_key = b""
        self.serving = False
        self._open_to_all = {
            HELLO: _from_metadata(self._hello, pb.HelloReply.SerializeToString),
            HEALTH: _from_metadata(self._check, health_pb2.HealthCheckResponse.SerializeToString),
        }

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        if open_to_all := self._open_to_all.get(details.method):
            return open_to_all
        try:
            ADMITTED.set(await self._admit(details.method, dict(details.invocation_metadata)))
        except (Refused, NotAdmitted, NotNow) as refusal:
            return _refusing(refusal)
        except RuntimeError as error:  # a host that can start no thread now
            return _refusing(NotNow(f"the coordinator cannot look at the run's key: {error}"))
        return await continuation(details)

    async def _check(self, _: Context) -> health_pb2.HealthCheckResponse:
        status = health_pb2.HealthCheckResponse
        return status(status=status.SERVING if self.serving else status.NOT_SERVING)

    async def _hello(self, context: Context) -> pb.HelloReply:
        """Prove to a peer that this coordinator reads the key of a run. Raises Refused, NotAdmitted and NotNow."""
        try:
            request = pb.HelloRequest.FromString(dict(context.invocation_metadata())[HELLO_HEADER])
        except (KeyError, DecodeError):
            raise NotAdmitted("the call does not say whom it greets") from None
        run, peer = request.run, context.peer()
        if request.key_id and not self.keys.is_open(run):
            run = self.keys.find(request.key_id) or run
        reply = pb.HelloReply(coordinator=self._coordinator, run=run, token_wanted=self._tokens is not None)
        if request.nonce:
            own = bool(self.own_key) and request.key_id == proofs.key_id(self.own_key)
            try:
                key = self.own_key if own else await self.keys.get_anew(await self.keys.open(run))
            except NotNow as error:
                if error.failure:
                    raise Refused(error.failure) from None
                raise
            # A proof for a certificate of somebody else's would be for who stands in between.
            known = request.certificate == self.socket if peer.startswith("unix") else self.shows(request.certificate)
            if not known:
                raise NotNow("the caller has seen another certificate than this coordinator shows now: ask again")
            reply.proof = proofs.of_coordinator(key, self._coordinator, request.certificate, request.nonce)
        return reply

    async def _admit(self, method: str, metadata: dict[str, Any]) -> Admitted:
        if self._insecure:
            return Admitted()
        try:
            run, secret = metadata[RUN_HEADER].decode(), metadata.get(SECRET_HEADER, b"")
        except (KeyError, UnicodeDecodeError):
            raise NotAdmitted("the call carries no proof that its caller may take part in a run") from None
        if self._tokens is None or (method == STATUS and TOKEN_HEADER not in metadata):
            directory = await self._proven(run, metadata.get(PROOF_HEADER, b""))
        else:
            directory = await self._entitled(self._tokens, run, metadata.get(TOKEN_HEADER, b""))
        return Admitted(run, proofs.process_of(secret) if secret else "nobody", directory)

    async def _proven(self, run: str, proof: bytes) -> str:
        """Return the directory whose key a proof is made with."""
        store = await self.keys.open(run)
        if self.own_key and self._is_right(self.own_key, proof):
            return store.url
        if not self._is_right(await self.keys.get(store), proof) and not self._is_right(
            await self.keys.get_anew(store), proof
        ):
            raise NotAdmitted(f"the proof is not made with the key that this coordinator process reads in {run}")
        return store.url

    async def _entitled(self, tokens: Tokens, run: str, token: bytes) -> str:
        """Return the directory that a token is for; empty for all."""
        prefixes = tokens.prefixes(token)
        if not prefixes:
            raise NotAdmitted("the token is not one of those in the coordinator's --token-file")
        if EVERY_RUN in prefixes:
            return ""
        if not run:
            raise NotAdmitted(f"only a token for {EVERY_RUN} admits to the list of all runs")
        directory = (await self.keys.open(run)).url
        if not any(f"{directory}/".startswith(f"{prefix}/") for prefix in prefixes):
            raise NotAdmitted(f"the token is for other runs than {run}")
        return directory

    def _is_right(self, key: bytes, proof: bytes) -> bool:
        return proofs.same(proof, proofs.of_worker(key, self._coordinator))


def _from_metadata(reply: Callable[[Context], Awaitable[Any]], serialise: Callable[[Any], bytes]) -> Any:
    """Return a handler that answers a call without reading it."""

    async def handle(_: object, context: Context) -> None:
        answered = await answer(reply(context), context)
        with quietly():
            await context.write(answered)

    return grpc.stream_stream_rpc_method_handler(handle, response_serializer=serialise)


def _refusing(refusal: Exception) -> Any:
    """Return a handler that refuses a call without reading it."""

    async def refuse(_: object, context: Any) -> AsyncIterator[bytes]:
        await abort(refusal, context)
        yield b""

    return grpc.stream_stream_rpc_method_handler(refuse)
