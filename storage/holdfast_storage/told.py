"""What libraries and servers say, as it is told: briefly, in visible characters, without secrets."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator

from holdfast_storage.printable import printable
from holdfast_storage.scrub import scrubbed

TOLD, CAUSE = 300, 1_000
"""The characters that are told of what a library or a server says, in an error of ours and in its causes."""

_READ = 1 << 14  # characters of a text that are looked at: servers answer with whole pages
_MARKUP = re.compile(r"<(?:\?xml|!doctype|html|head|body|error)\b", re.IGNORECASE)


def told(said: BaseException | str, longest: int = TOLD) -> str:
    """Return in one short line what a library or a server says: without secrets, control characters and markup."""
    text = scrubbed((said if isinstance(said, str) else str(said) or type(said).__name__)[:_READ])
    if _MARKUP.search(text):
        text = re.sub(r"<(script|style)\b.*?</\1\s*>|<[^>]{0,500}>", " ", text, flags=re.IGNORECASE | re.DOTALL)
    return printable(" ".join(text.split()), longest)


class Told(Exception):
    """Stands for an exception that cannot be shown as it is: its type, its text, and where it was raised."""


def fit(error: BaseException, longest: int = _READ) -> BaseException:
    """Return an exception of which a traceback may be printed, with all its causes.

    This is the exception itself, unless it or a cause of it tells a secret, a control character, a line of its own, or
    more than `longest` characters.
    """
    chain = list(_chain(error))
    if all(_is_fit(each, longest) for each in chain):
        return error
    before: BaseException | None = None
    for each in reversed(chain):
        stand_in = Told(_fit_text(each, longest)).with_traceback(each.__traceback__)
        stand_in.__cause__, before = before, stand_in
    assert before is not None
    return before


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes, as a traceback shows them."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_fit(error: BaseException, longest: int) -> bool:
    return not hasattr(error, "exceptions") and _fit_text(error, longest) == _text(error)  # a group shows all in it


def _text(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(type(error), error)).rstrip("\n")


def _fit_text(error: BaseException, longest: int) -> str:
    """Lines after the first are indented: a log's lines are not."""
    text = scrubbed(_text(error)[:_READ])
    return "\n    ".join(map(printable, text[:longest].split("\n"))) + "..." * (len(text) > longest)
