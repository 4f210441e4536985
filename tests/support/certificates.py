"""Certificates as an operator has them: an authority, and what it signs."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, in PEM form."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[str, str]:
        """Put both in place, each at once. Return the paths: NAME.pem and NAME.key."""
        return put(folder / f"{name}.pem", self.certificate), put(folder / f"{name}.key", self.key)


class Authority:
    """One who vouches for others. `pem` is its own certificate."""

    def __init__(self, name: str = "authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key.public_key(), -DAY, DAY)
        certificate = builder.add_extension(x509.BasicConstraints(True, None), True).sign(self._key, hashes.SHA256())
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)

    def signed(self, host: str = "127.0.0.1", begins: timedelta = -DAY, ends: timedelta = DAY) -> Pair:
        """A new certificate for a host, valid from and until so long from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(x509.Name([]), self._name, key.public_key(), begins, ends)
        name = x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
        builder = builder.add_extension(x509.SubjectAlternativeName([name]), True)
        return Pair(
            builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )


def put(path: Path, content: bytes | str) -> str:
    """Replace a file by one that only its owner can read, as tools do that care. Return its path."""
    new = path.with_suffix(".new")
    new.touch(0o600)
    new.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(new, path)
    return str(path)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    begins: timedelta,
    ends: timedelta,
) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now + begins).not_valid_after(now + ends)
