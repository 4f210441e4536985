"""What the environment says about the coordinator that a program names: whom to believe, and what to show."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

CA, CERTIFICATE, KEY, TOKEN_FILE, INSECURE = (
    "HOLDFAST_TLS_CA",
    "HOLDFAST_TLS_CERT",
    "HOLDFAST_TLS_KEY",
    "HOLDFAST_TOKEN_FILE",
    "HOLDFAST_INSECURE",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Paths of files, empty where there is none. Each is read anew for every connection."""

    ca: str = ""  # those who vouch for the coordinator; without them it proves that it reads the run's key
    certificate: str = ""  # shown to coordinators, with its private key
    key: str = ""
    token_file: str = ""  # shown to a coordinator that wants a token, once it is known to be the right one
    insecure: bool = False  # speak without TLS, prove nothing, and believe whoever answers

    @classmethod
    def of(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Return what the environment says. Raises ValueError for what contradicts itself."""
        found = os.environ if environment is None else environment
        ca, certificate, key, token_file = (found.get(name, "") for name in (CA, CERTIFICATE, KEY, TOKEN_FILE))
        insecure = found.get(INSECURE, "") not in ("", "0")
        if bool(certificate) != bool(key):
            raise ValueError(f"{CERTIFICATE} and {KEY} belong together: set both, or none")
        others = [name for name in (CA, CERTIFICATE, TOKEN_FILE) if found.get(name)]
        if insecure and others:
            raise ValueError(
                f"{INSECURE} is set, so nothing is encrypted: {' and '.join(others)} cannot be used as well"
            )
        return cls(ca, certificate, key, token_file, insecure)

    def for_anybody(self) -> Settings:
        """Return what holds for an address that the program does not name: a hint or a log may lead to anybody. It is
        believed by the run's key alone, and gets no token."""
        return Settings(certificate=self.certificate, key=self.key)
