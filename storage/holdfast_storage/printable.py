"""Text that others chose, as a terminal or a log may show it.

A name, a URL or an error may come from whoever can write to a run directory or call a coordinator. What such a text
holds must not move the cursor, hide or reorder what stands beside it, or begin a line of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable

LONGEST = 128 << 10
"""The characters of the longest text that is shown, unless less is asked for."""

_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0d\uffa0\U000e0100-\U000e01ef]")
"""Letters and marks that nobody sees. Python calls them printable; emoji need U+FE0E and U+FE0F."""


def printable(text: str, longest: int = LONGEST) -> str:
    r"""Return a text in one line, with an escape such as `\x1b`, `\n` or `\u202e` for whatever is no visible character.

    These are control, format, private and unassigned characters, line separators, spaces other than the common one, and
    unpaired surrogates. Letters of all scripts, marks, emoji and backslashes stay as they are, so a text that was made
    printable is not changed again. A text of more than `longest` characters, 40 at least, is cut, and ends in its
    length.
    """
    shown = _with_escapes(text[: longest + 1], lambda character: character.encode("unicode_escape").decode())
    if len(shown) > longest:
        length = f"... ({len(text):,} characters)"
        shown = shown[: longest - len(length)] + length
    return shown


def printable_json(text: str) -> str:
    """Return JSON that means the same, in which all but visible characters and the line feeds around values is escaped.

    JSON's own rules leave C1 controls and bidirectional overrides as they are, and a terminal obeys them.
    """
    return "\n".join(_with_escapes(line, _escaped_in_json) for line in text.split("\n"))


def _with_escapes(text: str, escaped: Callable[[str], str]) -> str:
    if text.isprintable() and not _INVISIBLE.search(text):
        return text
    return "".join(c if c.isprintable() and not _INVISIBLE.match(c) else escaped(c) for c in text)


def _escaped_in_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
