"""The certificate of a coordinator's TLS listener, from files that may be replaced while it runs."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from holdfast_protos import tls
from holdfast_protos.credential_files import UnusableFile
from holdfast_storage.logger import logger

from .watched_files import WatchedFiles

log = logger("holdfast.coordinator")

SETTLE = 0.1
"""Seconds for other handshakes to get past a point. See `_look`."""

SHOWN_FOR = 60.0
"""Seconds for which a certificate that was replaced counts as this coordinator's own: for those who saw it last."""


@dataclass(frozen=True, slots=True)
class _Shown:
    configuration: grpc.ServerCertificateConfiguration
    fingerprint: bytes
    ends: datetime.datetime


class TlsFiles:
    """A certificate with its chain, its private key, and the certificates of those who vouch for clients, in PEM form.

    client_ca: its path; empty: clients need no certificate.

    gRPC looks at the files for every connection. Raises InvalidRequest if they cannot be used now; later on, what was
    there before stays in force then.
    """

    def __init__(self, certificate: str, key: str, client_ca: str = "") -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        paths = [(certificate, False), (key, True)] + ([(client_ca, False)] if client_ca else [])
        self._files = WatchedFiles(paths, self._parse)
        self._current = self._files.get()
        self._before = b"", 0.0  # the fingerprint before this one, and until when it counts
        self._expired = False

    @property
    def credentials(self) -> grpc.ServerCredentials:
        """For a port that shows what the files say at each handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._current.configuration,
            self._look,  # type: ignore[arg-type]  # it may return None
            require_client_authentication=bool(self._client_ca),
        )

    def shows(self, fingerprint: bytes) -> bool:
        """Return whether clients see the certificate with this fingerprint, or have seen it until just now."""
        before, until = self._before
        return fingerprint == self._current.fingerprint or (fingerprint == before and time.monotonic() < until)

    def _look(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what clients see from now on; None: what they saw before.

        gRPC calls this for each handshake, one after the other, on threads of its own.
        """
        found = self._files.get()
        expired = found.ends < datetime.datetime.now(datetime.timezone.utc)
        if expired and not self._expired:
            log.error("%s has expired on %s: replace it, and its key", self._certificate, found.ends)
        self._expired = expired
        if found is self._current:
            return None
        # gRPC holds a lock while we are called, and frees then what it made of the configuration before. A handshake
        # that has been here and has not yet taken hold of that would use it all the same, and the process would end.
        time.sleep(SETTLE)
        if found.fingerprint != self._current.fingerprint:
            self._before = self._current.fingerprint, time.monotonic() + SHOWN_FOR
        self._current = found
        return found.configuration

    def _parse(self, contents: list[bytes]) -> _Shown:
        chain, key, *client_ca = contents
        leaf = _certificates(self._certificate, chain)[0]
        if _raw(leaf.public_key()) != _raw(_private_key(self._key, key)):
            raise UnusableFile(f"{self._key} is not the private key of the first certificate in {self._certificate}")
        for each in client_ca:
            _certificates(self._client_ca, each)
        now = datetime.datetime.now(datetime.timezone.utc)
        if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
            valid = f"{leaf.not_valid_before_utc} to {leaf.not_valid_after_utc}"
            raise UnusableFile(f"{self._certificate} is valid from {valid}: it has expired, or a clock is wrong")
        der = leaf.public_bytes(serialization.Encoding.DER)
        try:
            tls.name_in(der)
        except OSError as error:
            raise UnusableFile(f"{self._certificate} cannot be used: {error}") from None
        configuration = grpc.ssl_server_certificate_configuration([(key, chain)], *client_ca)
        return _Shown(configuration, tls.fingerprint(der), leaf.not_valid_after_utc)


def _certificates(path: str, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise UnusableFile(f"{path} holds no certificate in PEM form") from None


def _private_key(path: str, pem: bytes) -> PublicKeyTypes:
    """Return the public part of a private key."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError:
        raise UnusableFile(f"{path} is protected by a password: give the key without one") from None
    except Exception:  # ValueError, or UnsupportedAlgorithm
        raise UnusableFile(f"{path} holds no private key in PEM form") from None
    return key.public_key()


def _raw(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
