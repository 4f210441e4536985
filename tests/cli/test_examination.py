"""What `holdfast doctor` finds out about a storage."""

from __future__ import annotations

import builtins
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry

from holdfast.cli import examination as module
from holdfast.cli.examination import Finding, examine
from holdfast_storage.errors import InvalidRequest, StorageError
from holdfast_storage.store import Store, open_store
from holdfast_storage.store.base import LARGEST, Buffer
from support.passing_store import PassingStore

T = TypeVar("T")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE_MIB", 8)


def findings(url: str | Path, double: type[PassingStore] | None = None) -> dict[str, Finding]:
    """By check; on stores that a double stands in front of."""
    with pytest.MonkeyPatch.context() as patch:
        if double is not None:
            patch.setattr(module, "open_store", lambda url, options: double(open_store(url, options)))
        return {finding.check: finding for finding in examine(url)}


@pytest.fixture(params=["posix", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A storage that is sound."""
    url = str(tmp_path) if request.param == "posix" else f"memory://{tmp_path.name}"
    open_store(url).create("neighbour", b"is left alone")
    yield url
    assert open_store(url).list() == ["neighbour"], "something was left behind"


def test_a_sound_storage(place: str) -> None:
    """A sound storage passes every check, and nothing is left behind. Guards against a false warning."""
    found = findings(place)
    assert list(found) == [*module._CHECKS, "clean-up"]
    assert not [finding for finding in found.values() if finding.bad], found
    assert found["large object"].figures["write_mib_per_second"] > 0


class Overwriting(PassingStore):
    """A storage that knows no exclusive create: everybody has won."""

    _lock = threading.Lock()

    def create(self, name: str, data: Buffer, *, private: bool = False) -> bool:
        with self._lock:
            self._inner.replace(name, data)
        return True


class Lagging(PassingStore):
    """One whose lists show nothing of what is new."""

    def list(self, folder: str = "", start: str = "") -> builtins.list[str]:
        return [name for name in self._inner.list(folder, start) if not name.startswith("small")]


class Forgetful(PassingStore):
    """One that goes on saying that something is missing once it has said so."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._missed: set[str] = set()

    def size(self, name: str) -> int | None:
        size = None if name in self._missed else self._inner.size(name)
        if size is None:
            self._missed.add(name)
        return size


class Old(PassingStore):
    """One that goes on giving out the first version of an object that was replaced."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._first: dict[str, bytes] = {}

    def read(self, name: str, *, limit: int = LARGEST) -> bytes:
        return self._first.setdefault(name, self._inner.read(name, limit=limit))


class Rotten(PassingStore):
    """One that does not give back what was written."""

    def read_into(self, name: str, offset: int, buffer: memoryview) -> int:
        count = self._inner.read_into(name, offset, buffer)
        buffer[0] ^= 1
        return count


class Closed(PassingStore):
    """One that may be looked at alone."""

    def _call(self, verb: str, name: str, effect: Callable[[], T]) -> T:
        if verb in ("create", "write", "replace"):
            raise StorageError(f"{self.url}/{name}: access denied", object=name)
        return effect()


class Keeping(PassingStore):
    """One that deletes nothing."""

    def delete_folder(self, folder: str) -> None:
        pass


@pytest.mark.parametrize(
    ("double", "check", "verdict", "says"),
    [
        (Overwriting, "exclusive create", "not protected", "winners instead of one"),
        (Lagging, "list after write", "slow", "lags behind"),
        (Forgetful, "read after write", "fails", "were not there"),
        (Old, "replacement", "slow", "the old bytes were read"),
        (Rotten, "large object", "fails", "was not read as it was written"),
        (Closed, "access", "fails", "access denied"),
    ],
)
def test_what_is_wrong_is_found(place: str, double: type[PassingStore], check: str, verdict: str, says: str) -> None:
    """Each fault of a storage is found. Guards against an examination that everything passes."""
    found = findings(place, double)
    assert found[check].verdict == verdict
    assert says in found[check].says
    others = [finding.check for finding in found.values() if finding.bad and finding.check != check]
    assert others == [], found


def test_what_protects_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage without an atomic create is called not protected. Guards against races within one process, which a lock
    decides, that make it look safe for two."""

    class Share(LocalFileSystem):
        protocol = "share"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.removeprefix("share:/")

    monkeypatch.setitem(_registry, "share", Share)
    found = findings(f"share:/{tmp_path}")
    assert found["exclusive create"].verdict == "not protected"
    assert [finding.check for finding in found.values() if finding.bad] == ["exclusive create"]


def test_what_cannot_be_deleted_is_named(tmp_path: Path) -> None:
    """What cannot be deleted is named. Guards against hundreds of MiB that stay in a bucket without a word."""
    left = findings(tmp_path, Keeping)["clean-up"]
    assert left.bad
    assert "remove it by hand" in left.says
    assert next(tmp_path.iterdir()).name in left.says


def test_it_ends_when_nothing_can_be_written(tmp_path: Path) -> None:
    """If nothing can be written, the examination ends with one finding. Guards against a minute of errors for
    everything that cannot be tried."""
    found = findings(tmp_path, Closed)
    assert [(finding.check, finding.bad) for finding in found.values()] == [("access", True), ("clean-up", False)]


class Unreachable(PassingStore):
    """One at which nobody answers."""

    def _call(self, verb: str, name: str, effect: Callable[[], T]) -> T:
        raise StorageError(f"{self.url}/{name}: no answer", object=name)


def test_it_ends_when_nobody_answers(tmp_path: Path) -> None:
    """If nobody answers, there is one finding. Guards against a second error about cleaning up what was never made."""
    assert list(findings(tmp_path, Unreachable)) == ["access"]


class Breaking(PassingStore):
    """One at which the n-th call to change something has its effect, and then ends in an error nobody has foreseen."""

    changes = itertools.count(1)
    fails_at = 0

    def _call(self, verb: str, name: str, effect: Callable[[], T]) -> T:
        result = effect()
        if verb in ("create", "write", "replace") and next(Breaking.changes) == Breaking.fails_at:
            raise KeyError("what is this")
        return result


@pytest.mark.parametrize("fails_at", [1, 2, 82, 102, 122])  # at least once in each check that makes anything
def test_nothing_is_left_behind_when_a_check_breaks(place: str, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    """If a check breaks, nothing is left behind. Guards against a library's traceback, and hundreds of MiB in a
    bucket."""
    monkeypatch.setattr(Breaking, "changes", itertools.count(1))
    monkeypatch.setattr(Breaking, "fails_at", fails_at)
    found = findings(place, Breaking)
    (bad,) = [finding for finding in found.values() if finding.bad]
    assert bad.verdict == "fails"
    assert "KeyError" in bad.says
    assert found["clean-up"].verdict == "works"


def test_who_stops_listening_leaves_nothing_behind(tmp_path: Path) -> None:
    """An examination that is abandoned leaves nothing behind. Guards against Ctrl-C in the middle."""
    looking: Any = examine(tmp_path)
    next(looking)
    assert list(tmp_path.iterdir())
    looking.close()
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    """A missing directory is refused. Guards against a mistyped path that is made, examined, and found good."""
    with pytest.raises(InvalidRequest, match="not a directory"):
        list(examine(tmp_path / "nowhere"))
    assert not list(tmp_path.iterdir())
