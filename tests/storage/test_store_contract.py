"""What every storage must do, whatever it is made of."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast_storage.errors import InvalidRequest, StorageError
from holdfast_storage.store.base import Store, TooLarge
from holdfast_storage.store.posix import PosixStore
from servers.fixtures import ObjectStore
from support.faulty_store import FaultyStore
from support.stores import ALL_KINDS, any_store, new_store


@pytest.fixture(params=[*ALL_KINDS, "double"])
def store(request: pytest.FixtureRequest, tmp_path: Path, object_store: ObjectStore) -> Store:
    """Every storage, and the double that other tests put in its place."""
    if request.param == "double":
        return FaultyStore(new_store("memory", tmp_path))
    return any_store(request.param, tmp_path, object_store)


def test_created_object_reads_back(store: Store) -> None:
    """A created object reads back. Guards against an object that is reported as made and holds something else."""
    assert store.create("_holdfast/log/1.json", b"one")
    assert store.read("_holdfast/log/1.json") == b"one"
    assert store.size("_holdfast/log/1.json") == 3


def test_second_create_changes_nothing(store: Store) -> None:
    """A second create changes nothing. Guards against a log entry that the loser of a race overwrites."""
    assert store.create("log/1", b"first")
    assert not store.create("log/1", b"second")
    assert store.read("log/1") == b"first"


def test_one_of_eight_creators_wins(store: Store) -> None:
    """Exactly one of eight creators wins. Guards against two coordinators that both believe they own the next entry of
    the log."""
    start = threading.Barrier(8)
    won: list[tuple[int, int]] = []

    def create(who: int) -> None:
        for race in range(40):
            start.wait()
            if store.create(f"log/{race}", b"%d" % who * 1000):
                won.append((race, who))

    threads = [threading.Thread(target=create, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(race for race, _ in won) == list(range(40))
    for race, who in won:
        assert store.read(f"log/{race}") == b"%d" % who * 1000


def test_readers_of_a_race_see_all_or_nothing(store: Store) -> None:
    """Readers during a race see all or nothing. Guards against a reader that takes a half-written entry for the
    whole."""
    done = threading.Event()
    seen: set[int] = set()

    def look() -> None:
        while not done.is_set():
            for number in range(20):
                try:
                    seen.add(len(store.read(f"log/{number}")))
                except FileNotFoundError:
                    continue

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(20):
        store.create(f"log/{number}", bytes(100_000))
    done.set()
    reader.join()
    assert seen <= {100_000}


def test_write_joins_its_chunks(store: Store) -> None:
    """A write joins its chunks, whatever their kind. Guards against losing a part of chunks of other element types,
    empty ones and views."""
    floats = memoryview(bytearray(range(16))).cast("f")
    chunks = [b"ab", b"", memoryview(b"cdefg")[1:3], bytearray(b"x"), floats]
    assert store.write("a/b/c.data", chunks) == 21
    assert store.read("a/b/c.data") == b"abdex" + bytes(range(16))


def test_large_objects(store: Store) -> None:
    """Large objects read back in whole and in ranges. Guards against a part of an upload, or a range of a read, that is
    lost or misplaced."""
    data = memoryview(random.Random(0).randbytes(40_000_003))
    chunks = [data[start : start + 7_000_000] for start in range(0, len(data), 7_000_000)]
    assert store.write("a/large", chunks) == len(data)
    assert store.size("a/large") == len(data)
    assert store.read("a/large") == data
    buffer = memoryview(bytearray(len(data)))
    assert store.read_into("a/large", 1_000_001, buffer) == len(data) - 1_000_001
    assert buffer[: len(data) - 1_000_001] == data[1_000_001:]


def test_write_of_nothing_makes_an_empty_object(store: Store) -> None:
    """Writing nothing makes an empty object. Guards against an empty shard that is missing afterwards."""
    assert store.write("a/empty", []) == 0
    assert store.size("a/empty") == 0
    assert store.read("a/empty") == b""


def test_write_to_a_taken_name_is_refused(store: Store) -> None:
    """A write to a taken name is refused. Guards against an object of a committed checkpoint that a later attempt
    changes."""
    store.write("a/b", [b"first"])
    with pytest.raises(StorageError, match="a/b") as raised:
        store.write("a/b", [b"second"])
    assert raised.value.object.endswith("a/b")
    assert store.read("a/b") == b"first"


def test_replace_sets_new_and_old(store: Store) -> None:
    """`replace` sets new and existing objects. Guards against TensorFlow's state file with the tail of a longer
    predecessor."""
    store.replace("checkpoint", b"a longer text")
    store.replace("checkpoint", b"short")
    assert store.read("checkpoint") == b"short"


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, 4, b"0123"), (3, 4, b"3456"), (8, 4, b"89"), (10, 4, b""), (30, 4, b""), (2, 0, b"")],
)
def test_ranges(store: Store, offset: int, length: int, expected: bytes) -> None:
    """Ranges read exactly their bytes. Guards against a tensor that is read from the wrong place, or padded where its
    object ends."""
    store.write("a", [b"0123456789"])
    buffer = memoryview(bytearray(length))
    assert store.read_into("a", offset, buffer) == len(expected)
    assert buffer[: len(expected)] == expected


@pytest.mark.parametrize("size", [10, 300_000])
def test_a_read_has_a_limit(store: Store, size: int) -> None:
    """An object of more bytes than the limit is an error that names it, and one of as many is read. Guards against an
    object of two terabytes in place of a log entry, which would take all memory before it is found wrong."""
    store.write("log/1", [bytes(size)])
    assert store.read("log/1", limit=size) == bytes(size)
    for limit in (0, 9, size - 1):
        with pytest.raises(TooLarge, match=f"log/1: it has more than {limit:,} bytes") as raised:
            store.read("log/1", limit=limit)
        assert raised.value.object.endswith("log/1")
    store.write("log/2", [])
    assert store.read("log/2", limit=0) == b""


def test_a_private_object_is_one(store: Store) -> None:
    """A private object is created and read like any other. Guards against a run's secret key that can be made only on a
    file system, or twice."""
    assert store.create("_holdfast/key", b"secret", private=True)
    assert not store.create("_holdfast/key", b"another", private=True)
    assert store.read("_holdfast/key") == b"secret"


@pytest.mark.parametrize("read", [lambda s, n: s.read(n), lambda s, n: s.read_into(n, 0, memoryview(bytearray(4)))])
@pytest.mark.parametrize("name", ["missing", "missing/below", "a/file/below"])
def test_missing_objects(store: Store, read: Callable[[Store, str], object], name: str) -> None:
    """Missing objects are reported as missing. Guards against a run that can never be started or settled because
    missing is reported as unreadable."""
    store.write("a/file", [b"x"])
    with pytest.raises(FileNotFoundError):
        read(store, name)
    assert store.size(name) is None


def test_a_folder_is_no_object(store: Store) -> None:
    """A folder is not an object. Guards against a folder that is taken for the object of that name."""
    store.write("a/b", [b"x"])
    assert store.size("a") is None


def test_listing(store: Store) -> None:
    """A listing has exactly the names directly below. Guards against names in another form than they are asked for, or
    from deeper down."""
    for name in ("b", "a/1", "a/2/x", "a-c/1", "_holdfast/log/000000000000.json"):
        store.write(name, [b""])
    assert store.list() == ["_holdfast/", "a-c/", "a/", "b"]
    assert store.list("a") == ["1", "2/"]
    assert store.list("_holdfast/log") == ["000000000000.json"]
    assert store.list("_holdfast/log", "00000000000") == ["000000000000.json"]
    assert store.list("_holdfast/log", "00000000001") == []
    assert store.list(start="a") == ["a-c/", "a/"]
    assert store.list(start="a-") == ["a-c/"]
    assert store.list("a", "2") == ["2/"]


def test_listing_of_what_is_no_folder(store: Store) -> None:
    """A listing of a missing folder is empty. Guards against a new run directory that is taken for unreadable."""
    assert store.list() == []
    store.write("a", [b"x"])
    assert store.list("a") == []
    assert store.list("b") == []


def test_leftovers_of_verbs_are_not_listed(store: Store) -> None:
    """Temporary files are not listed. Guards against temporary files that look like objects of the run."""
    store.create("a/1", b"x")
    store.create("a/1", b"x")
    store.replace("a/2", b"x")
    assert store.list("a") == ["1", "2"]


def test_delete_folder_deletes_that_folder(store: Store) -> None:
    """Deleting a folder deletes exactly that folder. Guards against retention that also deletes a neighbour with the
    same beginning, or leaves parts behind."""
    for name in ("ckpt-1/a", "ckpt-1/local/b", "ckpt-10/a", "ckpt-1.index"):
        store.write(name, [b"x"])
    store.delete_folder("ckpt-1")
    store.delete_folder("ckpt-1")
    assert store.list() == ["ckpt-1.index", "ckpt-10/"]
    assert store.read("ckpt-10/a") == b"x"


def test_deleters_may_meet(store: Store) -> None:
    """Several callers may delete the same folder. Guards against one of two deleters that is told that it failed."""
    for number in range(50):
        store.write(f"ckpt/{number % 5}/{number}", [b"x"])
    failures: list[Exception] = []

    def delete() -> None:
        try:
            store.delete_folder("ckpt")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=delete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.list() == []


def test_a_forked_process(store: Store) -> None:
    """A fork is told that it cannot use the store. Guards against a process of `multiprocessing` that waits for ever
    for its parent's threads, or ends in a traceback."""
    works, refused = 0, 1
    store.create("log/1", b"first")
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            os._exit(works if store.create("log/2", b"second") else 2)
        except InvalidRequest as error:
            os._exit(refused if "before this process was forked" in str(error) else 3)
        except BaseException:
            os._exit(4)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (works if isinstance(store, PosixStore) else refused)
    assert (store.size("log/2") is not None) is isinstance(store, PosixStore)
    assert store.create("log/3", b"third")


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../../b", "a//b", "./a", "a/", "a\0b"])
def test_names_stay_below_the_run_directory(store: Store, name: str) -> None:
    """Names outside of the run directory are refused. Guards against a foreign manifest or index that makes us write or
    delete outside of the run."""
    for verb in (
        lambda: store.create(name, b""),
        lambda: store.write(name, []),
        lambda: store.replace(name, b""),
        lambda: store.read(name),
        lambda: store.size(name),
        lambda: store.delete_folder(name),
    ):
        with pytest.raises(ValueError, match="relative path"):
            verb()
