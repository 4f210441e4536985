"""What coordinators and workers prove to each other.

Both can read the run's key, which stands on the run's own storage, and prove it by HMAC-SHA256 (RFC 2104) without
sending it. A proof is bound to what it is for, so that nobody can use it elsewhere:

- The coordinator's is bound to the certificate of its TLS listener, so nobody can stand in between, and to a nonce.
- The worker's is bound to the coordinator's process. It goes to a coordinator that has proven itself, over TLS.

In addition every process has a secret of its own, of which its public name is a hash. So what it once said about itself
in a join is known to be its own later on, also by a coordinator that was started meanwhile.
"""

from __future__ import annotations

import hashlib
import hmac

PROCESS_DIGITS = 20
"""Hexadecimal digits of a process's name: 80 bits, which nobody finds another secret for."""


def of_coordinator(key: bytes, coordinator: str, certificate: bytes, nonce: bytes) -> bytes:
    """Return the proof that a coordinator reads a run's key.

    coordinator: the id of its process. certificate: the SHA-256 of its TLS certificate in DER; empty on a socket that
    only this host's own user reaches. nonce: bytes that the one who asks has drawn.
    """
    return _proof(key, b"coordinator", coordinator.encode(), certificate, nonce)


def of_worker(key: bytes, coordinator: str) -> bytes:
    """Return the proof that a worker reads a run's key, for the coordinator process of this id."""
    return _proof(key, b"worker", coordinator.encode())


def key_id(key: bytes) -> bytes:
    """Return a public name of a key, by which a coordinator finds a run that its caller reaches by another path."""
    return hashlib.sha256(b"holdfast key" + key).digest()[:16]


def same(one: bytes, other: bytes) -> bool:
    """Return whether two proofs are equal, in a time that does not tell how far they are."""
    return hmac.compare_digest(one, other)


def process_of(secret: bytes) -> str:
    """Return the public name of the process with this secret."""
    return hashlib.sha256(b"holdfast process" + secret).hexdigest()[:PROCESS_DIGITS]


def _proof(key: bytes, *parts: bytes) -> bytes:
    # Each part is hashed first: no two lists of parts give one text.
    return hmac.digest(key, b"holdfast" + b"".join(hashlib.sha256(part).digest() for part in parts), "sha256")
