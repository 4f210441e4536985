"""The certificate of a coordinator's TLS listener."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass

from holdfast_protos.tls import OWN_NAME, fingerprint
from holdfast_storage.errors import InvalidRequest

VALID_FOR = datetime.timedelta(days=3650)
"""No clock decides whom a worker believes: it knows the certificate by itself, and the process ends first."""

SLOW_CLOCK = datetime.timedelta(days=366)
"""How far a worker's clock may be behind."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A private key and its certificate chain, both in PEM form."""

    key: bytes
    chain: bytes

    @property
    def fingerprint(self) -> bytes:
        """The SHA-256 of the certificate in DER form."""
        end = b"-----END CERTIFICATE-----"
        first = self.chain[: self.chain.index(end) + len(end)]
        return fingerprint(ssl.PEM_cert_to_DER_cert(first.decode()))


def self_made() -> Certificate:
    """Return a new certificate, which its own key has signed. Workers believe it by the coordinator's proof.

    Raises InvalidRequest if the package that makes it is not there: nobody listens to the network without TLS.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise InvalidRequest(
            f"a coordinator for several workers listens by TLS: install cryptography, which is missing ({error})",
            object="cryptography",
        ) from error
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([]), datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SLOW_CLOCK)
        .not_valid_after(now + VALID_FOR)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(OWN_NAME)]), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Certificate(private, certificate.public_bytes(encoding))
