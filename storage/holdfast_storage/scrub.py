"""Texts without the secrets in them.

Libraries and servers repeat in their errors what they were asked: URLs with signatures, headers, settings. Such errors
go to logs, to the coordinator and to all other workers.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "***"
"""What stands in the place of a secret."""

_SHORTEST, _SHORTEST_OF_ENVIRONMENT = 6, 8  # characters of a secret; settings such as `1` or `none` are none
_WORD = re.compile(r"[a-z]{1,11}")  # such as `minioadmin`: it would be hidden in every sentence

_SECRET_NAME = re.compile(
    r"(?:^|[_.-]|api|access|account)keys?(?:$|[_.-])|secret|token|passw|passphrase|pwd|signature|credential|cookie"
    r"|auth(?!or)|private|connection.?string|\bsas",
    re.IGNORECASE,
)
_PUBLIC_NAME = re.compile(r"^(?:old)?pwd$|(?:file|path|sock|application_credentials)$", re.IGNORECASE)
_FILE = re.compile(r"[~.]{0,2}/.*\.\w{1,5}")

_NAME = r"(?:(?:access|account|api|private)[_-]?key|secret|token|passw|pwd|signature|credential)[\w.-]{0,40}"
_VALUE = r"""(?:"[^"]*"|'[^']*'|[^\s"'&;,<>)}\]]+)"""
_PATTERNS = [
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), put)
    for pattern, put in (
        (r"-----BEGIN [^-]*-----.*?(?:-----END [^-]*-----|$)", HIDDEN),
        # A query: signatures of all clouds, tokens, and nothing that explains an error.
        (r"\?[\w.~%$-]+=[^\s\"'<>)]*", "?..."),
        (r"(\w://)[^\s/@\"']{0,200}:[^\s/@\"']{0,200}@", rf"\1{HIDDEN}@"),
        (r"(https?://)[^\s/@\"']{1,400}@", rf"\1{HIDDEN}@"),
        # Headers, as they are or in a dict.
        (r"((?:authorization|cookie)[\"']?\s*[:=]\s*)(?:\"[^\"]*\"|'[^']*'|[^\"'\n<]+)", rf"\1{HIDDEN}"),
        (r"\b(bearer|basic|sharedkey)\s+(?=\S*[\d=])[^\s\"'<,]{8,}", rf"\1 {HIDDEN}"),
        # Settings: `password=x`, `'password': 'x'`. Before a colon, words such as `ExpiredToken` occur in prose.
        (rf"({_NAME}(?:=|[\"']\s*:\s*)){_VALUE}", rf"\1{HIDDEN}"),
        (rf"({_NAME}\s*:\s*)(?=\S*\d)[^\s\"'&;,<>)}}\]]{{8,}}", rf"\1{HIDDEN}"),
        (rf"\b(sig|se)={_VALUE}", rf"\1={HIDDEN}"),
        # What looks like a key wherever it stands: Amazon's, Google's, a JSON web token.
        (r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bya29\.[\w-]+|\beyJ[\w-]{8,300}\.[\w-]+\.[\w-]*", HIDDEN),
    )
]

_kept: deque[str] = deque(maxlen=1_000)  # a token that is renewed by the hour stays known for weeks


def keep_secret(options: Mapping[str, Any]) -> None:
    """Remember what is secret among the options of a storage, so that no text of this process shows it any more."""
    for secret in _secrets(options, secret=False):
        if len(secret) >= _SHORTEST and secret not in _kept:
            _kept.append(secret)


def scrubbed(text: str) -> str:
    """Return a text without secrets: those that `keep_secret` knows, those in the environment, and what looks like one.

    In the environment, as in options, the names decide what is secret.
    """
    environment = (v for v in _secrets(os.environ, secret=False) if len(v) >= _SHORTEST_OF_ENVIRONMENT)
    for secret in sorted({*_kept, *environment}, key=len, reverse=True):
        for form in {secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}:
            text = text.replace(form, HIDDEN)
    for pattern, put in _PATTERNS:
        text = pattern.sub(put, text)
    return text


def _secrets(value: Any, *, secret: bool) -> Iterator[str]:
    """Yield the secret texts in options.

    secret: whether a name above has said so already.
    """
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _secrets(each, secret=secret or _is_secret(str(name)))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _secrets(each, secret=secret)
    elif secret and isinstance(value, str | bytes):
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if not _WORD.fullmatch(text) and not _FILE.fullmatch(text) and not (os.sep in text and os.path.exists(text)):
            yield text
            yield from _parts(text)


@lru_cache(1_000)
def _is_secret(name: str) -> bool:
    return bool(_SECRET_NAME.search(name)) and not _PUBLIC_NAME.search(name)


def _parts(text: str) -> Iterator[str]:
    """Yield the secret parts of a connection string or a query, and the lines of a key."""
    for part in re.split("[;&?]", text):
        name, _, value = part.partition("=")
        if name == "sig" or _is_secret(name):
            yield value
    yield from (line for line in text.split("\n")[1:] if len(line) >= 16)
