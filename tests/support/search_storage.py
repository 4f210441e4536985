"""Storage for `support.log_search`: what lies there at one instant, and what the log would do to it next."""

from __future__ import annotations

from typing import Any

from holdfast_storage.store.base import LARGEST


class Disk:
    """A storage at one instant, as a `Store` that is only read."""

    url = "disk"
    parallel = 1
    block = 1 << 20

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    def read(self, name: str, *, limit: int = LARGEST) -> bytes:
        try:
            return self.objects[name]
        except KeyError:
            raise FileNotFoundError(name) from None

    def size(self, name: str) -> int | None:
        return len(self.objects[name]) if name in self.objects else None

    def list(self, folder: str = "", start: str = "") -> list[str]:
        inside = (
            name.removeprefix(f"{folder}/") for name in self.objects if not folder or name.startswith(f"{folder}/")
        )
        names = {name.partition("/")[0] + "/" * ("/" in name) for name in inside}
        return sorted(name for name in names if name.startswith(start))


Operation = tuple[str, str, bytes]  # what to do, to which name, with what
Answer = bool | bytes | None | Exception


class Next(BaseException):
    """The operation that a play of the log has come to."""


class Script:
    """A `Store` that gives the answers that were had, and then stops at the next operation."""

    url = "disk"
    parallel = 1
    block = 1 << 20

    def __init__(self, answers: tuple[Answer, ...]) -> None:
        self._answers = iter(answers)

    def _ask(self, what: str, name: str, data: bytes = b"") -> Any:
        for answer in self._answers:
            if isinstance(answer, Exception):
                raise answer
            return answer
        raise Next(what, name, data)

    def create(self, name: str, data: bytes) -> bool:
        return bool(self._ask("create", name, bytes(data)))

    def replace(self, name: str, data: bytes) -> None:
        self._ask("replace", name, bytes(data))

    def remove(self, name: str) -> None:
        """For protocols that lose something."""
        self._ask("remove", name)

    def read(self, name: str, *, limit: int = LARGEST) -> bytes:
        found = self._ask("read", name)
        if found is None:
            raise FileNotFoundError(name)
        assert isinstance(found, bytes)
        return found
