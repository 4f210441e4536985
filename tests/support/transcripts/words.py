"""The words of a command."""

from __future__ import annotations

import shlex
from collections.abc import Iterable


class Unknown(ValueError):
    """A script says what means nothing."""


class Words:
    """The words of a command, each of which must be taken."""

    def __init__(self, text: str) -> None:
        self.words = []
        self.options = {}
        for word in shlex.split(text):
            name, equals, value = word.partition("=")
            if equals and " " not in name:
                self.options[name] = value
            else:
                self.words.append(word)

    def next(self, default: str | None = None) -> str:
        if not self.words and default is None:
            raise Unknown("a word is missing")
        return self.words.pop(0) if self.words or default is None else default

    def option(self, name: str, default: str = "") -> str:
        return self.options.pop(name, default)

    def flag(self, name: str) -> bool:
        found = name in self.words
        if found:
            self.words.remove(name)
        return found

    def one_of(self, choices: Iterable[str], default: str = "") -> str:
        """The next word, if it is one of these."""
        return self.words.pop(0) if self.words and self.words[0] in choices else default

    def end(self) -> None:
        left = [*self.words, *(f"{name}={value}" for name, value in self.options.items())]
        if left:
            raise Unknown(f"what does {' '.join(left)} mean here?")
