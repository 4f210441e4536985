"""TLS as a client sees it: the certificate that a listener shows, and credentials that accept it and no other."""

from __future__ import annotations

import hashlib
import socket
import ssl
from dataclasses import dataclass

OWN_NAME = "holdfast"
"""The name in a certificate that a coordinator has made itself."""


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """The certificate of a listener."""

    pem: bytes
    fingerprint: bytes  # SHA-256 of its DER form
    name: str  # one that it is valid for


def fetch(address: str, timeout: float) -> PeerCertificate:
    """Return the certificate that the listener at HOST:PORT shows, whoever it is. Nothing of it is believed.

    Raises OSError, which TimeoutError and ssl.SSLError are, if nobody answers there or no TLS is spoken.
    """
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host.strip("[]"), int(port)), timeout) as connection,
        context.wrap_socket(connection) as tls,
    ):
        der = tls.getpeercert(binary_form=True)
    if not der:
        raise ssl.SSLError("the listener shows no certificate")
    return PeerCertificate(ssl.DER_cert_to_PEM_cert(der).encode(), fingerprint(der), _name_in(der))


def fingerprint(der: bytes) -> bytes:
    return hashlib.sha256(der).digest()


def _name_in(der: bytes) -> str:
    """Return a name that a certificate is valid for: gRPC compares one, although the certificate is known by itself."""
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
