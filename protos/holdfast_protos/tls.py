"""TLS as a client sees it: the certificate that a listener shows, and credentials that accept nobody else.

gRPC's own words for a handshake that fails differ from version to version, and often do not say why. So each connection
is tried first with Python's `ssl`, which does.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from dataclasses import dataclass

import grpc

from holdfast_protos import credential_files
from holdfast_protos.credential_files import UnusableFile
from holdfast_protos.settings import CA, CERTIFICATE, KEY, Settings

OWN_NAME = "holdfast"
"""The name in a certificate that a coordinator has made itself."""


class Distrust(Exception):
    """One of both sides does not believe the other, or cannot. The message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A listener, as far as its certificate says who it is."""

    credentials: grpc.ChannelCredentials  # they accept it and nobody else
    fingerprint: bytes = b""  # SHA-256 of its one certificate's DER form; empty: its issuer vouches for it
    name: str = ""  # one that this certificate is valid for


def meet(address: str, settings: Settings, timeout: float) -> Peer:
    """Connect to the listener at HOST:PORT. Without a CA in the settings, nothing of it is believed yet.

    Raises Distrust, and OSError, which TimeoutError and ssl.SSLError are, if nobody answers there or no TLS is spoken.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    authorities, pair = _own(context, settings)
    try:
        with (
            socket.create_connection((host, int(port)), timeout) as connection,
            # Without a CA no name counts, and gRPC's server would log each that its certificate does not hold.
            context.wrap_socket(connection, server_hostname=host if authorities else None) as tls,
        ):
            der = tls.getpeercert(binary_form=True)
            if not _welcomes(tls):
                raise Distrust(
                    f"the coordinator at {address} ends the connection after the handshake: does it want a certificate "
                    f"that another authority has signed? {_shown(settings)}"
                )
    except ssl.SSLCertVerificationError as error:
        raise Distrust(
            f"the certificate that is shown at {address} is not good: {error.verify_message}. {CA} is {settings.ca}"
        ) from None
    if authorities:
        return Peer(grpc.ssl_channel_credentials(authorities, *pair))
    if not der:
        raise ssl.SSLError("the listener shows no certificate")
    pem = ssl.DER_cert_to_PEM_cert(der).encode()
    return Peer(grpc.ssl_channel_credentials(pem, *pair), fingerprint(der), name_in(der))


def fingerprint(der: bytes) -> bytes:
    return hashlib.sha256(der).digest()


def name_in(der: bytes) -> str:
    """Return a name that a certificate is valid for: gRPC compares one, although the certificate is known by itself.

    Raises ssl.SSLError if there is none.
    """
    from cryptography import x509

    try:
        extensions = x509.load_der_x509_certificate(der).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception as error:  # cryptography has one of its own for each way in which a certificate can be odd
        raise ssl.SSLError(f"the listener's certificate names no host: {error}") from error
    for name in names:
        if isinstance(name, x509.DNSName | x509.IPAddress):
            return str(name.value).replace("*", "any")
    raise ssl.SSLError("the listener's certificate names no host")


def _welcomes(connection: ssl.SSLSocket) -> bool:
    """Return whether the server says something. One that does not accept our certificate just closes."""
    try:
        return bool(connection.recv(1))
    except (ConnectionError, ssl.SSLError):
        return False


def _shown(settings: Settings) -> str:
    """Return in a sentence which certificate we show."""
    from cryptography import x509

    if not settings.certificate:
        return f"{CERTIFICATE} and {KEY} are not set"
    ends = x509.load_pem_x509_certificate(credential_files.read(settings.certificate)).not_valid_after_utc
    return f"{CERTIFICATE} is {settings.certificate}, valid until {ends}"


def _own(context: ssl.SSLContext, settings: Settings) -> tuple[bytes, tuple[bytes, ...]]:
    """Put what the settings name into a context. Return the CA's certificates, and our own key and certificate."""
    authorities, pair = b"", tuple[bytes, ...]()
    try:
        if settings.ca:
            authorities = credential_files.read(settings.ca)
            context.load_verify_locations(cadata=authorities.decode("latin-1"))
        else:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if settings.certificate:
            key, chain = credential_files.read(settings.key, secret=True), credential_files.read(settings.certificate)
            context.load_cert_chain(settings.certificate, settings.key, password="")
            pair = key, chain
    except UnusableFile as error:
        raise Distrust(str(error)) from None
    except (OSError, ValueError) as error:  # of OpenSSL, which names no file
        ours = f" or {settings.certificate} with {settings.key}" if settings.certificate else ""
        raise Distrust(f"{settings.ca or 'there is no CA'}{ours} cannot be used: {error}") from None
    return authorities, pair
