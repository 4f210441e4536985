"""The tokens by which workers prove themselves to a coordinator that has a --token-file."""

from __future__ import annotations

import hashlib
import hmac

from holdfast_protos.credential_files import UnusableFile
from holdfast_storage.errors import InvalidRequest
from holdfast_storage.store import normalise

from .watched_files import WatchedFiles

SHORTEST = 16
"""The characters of the shortest token: nobody guesses one of them."""

EVERY_RUN = "*"

EXPECTED = "A line is PREFIX TOKEN: a run directory, or a folder above such, or * for all, and a token"


class Tokens:
    """The tokens in a file, which is read again when it changes. Only their hashes are kept.

    A line is `PREFIX TOKEN`: the token admits to the run at PREFIX and to all runs below it, and for `*` to all and to
    the list of them. One prefix may have several. Empty lines and those that begin with # say nothing. Raises
    InvalidRequest if the file cannot be used.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = WatchedFiles([(path, True)], self._parse)

    def prefixes(self, token: bytes) -> list[str]:
        """Return the prefixes for which a token is good. The time that it takes does not tell how near it is."""
        digest = hashlib.sha256(token).digest()
        return [prefix for prefix, good in self._file.get() if hmac.compare_digest(good, digest)]

    def _parse(self, contents: list[bytes]) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        for number, line in enumerate(contents[0].splitlines(), 1):
            where, words = f"{self._path}, line {number}", line.rsplit(maxsplit=1)
            if not words or words[0].startswith(b"#"):
                continue
            if len(words) < 2:
                raise UnusableFile(f"{where} has one word. {EXPECTED}")
            if len(words[1]) < SHORTEST:
                raise UnusableFile(f"{where} has a token of {len(words[1])} characters: {SHORTEST} are the fewest")
            try:
                prefix = words[0].decode().strip()
                found.append((prefix if prefix == EVERY_RUN else normalise(prefix), hashlib.sha256(words[1]).digest()))
            except (UnicodeDecodeError, InvalidRequest) as error:
                raise UnusableFile(f"{where} names no run directory and no folder: {error}. {EXPECTED}") from None
        return found
