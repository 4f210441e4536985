"""A text that takes over a terminal or a log which shows it as it is."""

from __future__ import annotations

import unicodedata

EVIL = (
    "\x1b]0;OWNED\x07\x1b[2J\x1b[H\x9b31mred\u202egnp.exe\u2066\u200f\u200b\ufeff\u2028\t\r\x08[red]x[/red]"
    "[link=http://a]b[/link]:smile:\nBAD  forged"
)
"""Escape sequences with ESC and with C1, bidirectional overrides, invisible characters, a line of its own, markup."""

LINE = "BAD  forged"


def faults(shown: str) -> list[str]:
    """Return what is wrong with what was shown: characters that are not visible, or a line that others wrote."""
    odd = {c for c in shown if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    return sorted(map(ascii, odd)) + [line for line in shown.split("\n") if line.startswith(LINE)]
