"""The examination of a storage for `holdfast doctor`: it tries everything that Holdfast needs.

Everything happens below one folder with a random name, which is removed again whatever happens.
"""

from __future__ import annotations

import os
import secrets
import statistics
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.errors import HoldfastError, InvalidRequest
from holdfast_storage.parallel import in_parallel
from holdfast_storage.store import Store, open_store
from holdfast_storage.told import told

Verdict = Literal["works", "slow", "not protected", "fails"]

RACERS = 8
RACES = 10
TRIES = 20
"""The number of objects that are made, read and listed one after the other."""

LARGE_MIB = 128
"""The size of the object that is written and read whole: several parts of an upload."""

READERS = 4
SLOW_CALL_S = 1.0
SLOW_MIB_S = 50.0

_ONE_IS_SAFE = "One at a time is safe: never start a job on a run that another one may still be working on"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    verdict: Verdict
    says: str  # a sentence or two for a person
    figures: Mapping[str, float]  # by name with unit

    @property
    def bad(self) -> bool:
        """Whether a run here could lose something, or not work at all."""
        return self.verdict in ("not protected", "fails")


Says = tuple[Verdict, str, Mapping[str, float]]


def examine(
    url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> Generator[Finding, None, None]:
    """Try everything that Holdfast needs of a storage, and yield each finding as soon as it is known.

    If nothing can be written, nothing more is tried. Raises InvalidRequest for what cannot hold runs.
    """
    place = open_store(url, storage_options)
    if "://" not in place.url and not os.path.isdir(place.url):
        raise InvalidRequest(f"{place.url} is not a directory; name one that exists, such as the one above your runs")
    folder = f"holdfast-doctor-{secrets.token_hex(4)}"
    store = open_store(f"{place.url.rstrip('/')}/{folder}", storage_options)
    reached = _finding("access", lambda: _reached(store))
    if reached.bad:  # nothing was made
        yield reached
        return
    try:
        for check, look in _CHECKS.items():
            finding = _finding(check, lambda look=look: look(store))  # type: ignore[misc]
            yield finding
            if check == "access" and finding.bad:
                break
    finally:
        try:
            last = _finding("clean-up", lambda: _clean_up(place, folder))
        except BaseException:  # it was interrupted
            _finding("clean-up", lambda: _clean_up(place, folder))
            raise
    yield last


def _finding(check: str, look: Callable[[], Says]) -> Finding:
    try:
        return Finding(check, *look())
    except (HoldfastError, FileNotFoundError) as error:
        return Finding(check, "fails", str(error), {})
    except Exception as error:  # of a library, which did not foresee it
        return Finding(check, "fails", f"{type(error).__name__}: {told(error)}", {})


def _reached(store: Store) -> Says:
    store.list()
    return "works", "objects can be listed here", {}


def _access(store: Store) -> Says:
    began = time.monotonic()
    if not store.create("access", b"made"):
        return "fails", f"{store.url}/access is taken, in a folder that was made just now", {}
    says = "objects can be listed and made here"
    says += ", until this process ends; no other one sees them" * store.url.startswith("memory://")
    return "works", says, {"seconds": time.monotonic() - began}


def _exclusive_create(store: Store) -> Says:
    """Check that exactly one of several callers creates an object: a commit rests on this."""
    if not store.exclusive:
        says = "no call of this storage creates an object only if there is none: two coordinators on one run "
        return "not protected", f"{says}directory can lose a commit. {_ONE_IS_SAFE}", {}
    winners = []
    for race in range(RACES):
        ready = threading.Barrier(RACERS)

        def run(racer: int, name: str = f"race-{race}", ready: threading.Barrier = ready) -> bool:
            ready.wait(60.0)
            return store.create(name, f"made by {racer}".encode())

        with ThreadPoolExecutor(RACERS) as pool:
            won = [racer for racer, wins in enumerate(pool.map(run, range(RACERS))) if wins]
        stands = store.read(f"race-{race}")
        winners.append(len(won))
        if len(won) == 1 and stands != f"made by {won[0]}".encode():
            return "not protected", f"race {race} was won by caller {won[0]}, but {stands!r} stands there", {}
    bad = sum(count != 1 for count in winners)
    if bad:
        says = (
            f"{bad} of {RACES} races between {RACERS} callers had {min(winners)} to {max(winners)} winners instead of "
            f"one: two coordinators at work on one run directory can lose a commit. {_ONE_IS_SAFE}"
        )
        return "not protected", says, {"races": RACES, "races_without_one_winner": bad}
    says = f"{RACES} races between {RACERS} callers had exactly one winner each"
    return "works", says, {"races": RACES, "races_without_one_winner": 0}


def _read_after_write(store: Store) -> Says:
    """Check that everybody sees an object once the call that made it has returned, even if they looked before."""
    stale, made, read = 0, [], []
    for number in range(TRIES):
        name, data = f"small-{number}", f"number {number}".encode()
        looked = store.size(name)
        began = time.monotonic()
        store.create(name, data)
        made.append(time.monotonic() - began)
        began = time.monotonic()
        stale += looked is not None or store.size(name) != len(data) or store.read(name) != data
        read.append((time.monotonic() - began) / 2)
    figures = {"create_seconds": statistics.median(made), "read_seconds": statistics.median(read)}
    if stale:
        return "fails", f"{stale} of {TRIES} objects were not there, or not as written, right after the call", figures
    says = f"what was written is read at once; one call takes {1000 * figures['create_seconds']:.3g} ms to make a "
    says += f"small object, {1000 * figures['read_seconds']:.3g} ms to read it"
    slow = figures["create_seconds"] > SLOW_CALL_S
    return ("slow" if slow else "works"), says + (": each commit waits for several of these" * slow), figures


def _list_after_write(store: Store) -> Says:
    """Check that a list is up to date. Lists only shorten searches, so one that lags only costs time."""
    began = time.monotonic()
    names = set(store.list())
    missing = sum(f"small-{number}" not in names for number in range(TRIES))
    figures = {"seconds": time.monotonic() - began, "objects_missing": missing}
    if missing:
        says = f"a list lags behind by {missing} of {TRIES} objects: finding the newest checkpoint takes more calls"
        return "slow", says, figures
    return "works", "a list shows what was written just before", figures


def _replacement(store: Store) -> Says:
    """Check that a replaced object is read as replaced, as TensorFlow's `checkpoint` file is at each commit."""
    stale = 0
    for number in range(TRIES):
        store.replace("state", f"version {number}".encode())
        stale += store.read("state") != f"version {number}".encode()
    if stale:
        says = f"{stale} of {TRIES} times the old bytes were read after an object was replaced: stock readers of "
        return "slow", says + "TensorFlow's checkpoint file may see an older checkpoint for a while", {"stale": stale}
    return "works", "an object that is replaced is read as replaced", {"stale": 0}


def _large_object(store: Store) -> Says:
    """Check that a large object is written in parts and read in ranges from several threads."""
    block = os.urandom(1 << 20)
    began = time.monotonic()
    size = store.write("large", (block for _ in range(LARGE_MIB)))
    wrote = LARGE_MIB / (time.monotonic() - began)
    if size != LARGE_MIB << 20 or store.size("large") != size:
        return "fails", f"an object of {LARGE_MIB} MiB has {store.size('large')} bytes after it was written", {}

    def read(part: int) -> int:
        buffer = memoryview(bytearray(LARGE_MIB // READERS << 20))
        count = store.read_into("large", part * len(buffer), buffer)
        return crc32c(buffer[:count])

    began = time.monotonic()
    crcs = in_parallel(read, range(READERS), READERS)
    got = LARGE_MIB / (time.monotonic() - began)
    figures = {"write_mib_per_second": wrote, "read_mib_per_second": got}
    if set(crcs) != {crc32c(block * (LARGE_MIB // READERS))}:
        return "fails", f"an object of {LARGE_MIB} MiB was not read as it was written", figures
    says = f"{LARGE_MIB} MiB were written at {wrote:.0f} MiB/s and read in {READERS} ranges at {got:.0f} MiB/s"
    if min(wrote, got) < SLOW_MIB_S:
        return "slow", f"{says}: a worker's share of a checkpoint takes that long, and so does a restart", figures
    return "works", says, figures


def _clean_up(place: Store, folder: str) -> Says:
    began = time.monotonic()
    try:
        place.delete_folder(folder)
    except HoldfastError as error:
        return "fails", f"{error}. Remove {place.url}/{folder} by hand; what retention deletes would stay as well", {}
    took = time.monotonic() - began
    left = place.list(folder)
    if left:
        says = f"{len(left)} objects are still listed in {place.url}/{folder} after it was deleted; remove it by hand"
        return "fails", says, {"seconds": took}
    return "works", "everything that was made for this examination has been deleted", {"seconds": took}


_CHECKS: dict[str, Callable[[Store], Says]] = {
    "access": _access,
    "exclusive create": _exclusive_create,
    "read after write": _read_after_write,
    "list after write": _list_after_write,
    "replacement": _replacement,
    "large object": _large_object,
}
