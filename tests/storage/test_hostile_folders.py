"""A run directory in which somebody has put what does not belong there: nothing is followed, and nothing waits."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast_storage.errors import StorageError
from holdfast_storage.store import folder as module
from holdfast_storage.store import open_store
from holdfast_storage.store.base import TooLarge
from holdfast_storage.store.folder import Folder
from holdfast_storage.store.posix import PosixStore

ENTRY = "_holdfast/log/000000000001.json"


@pytest.fixture(params=["Linux", "elsewhere"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PosixStore:
    """A run with an object, on a system that tells the path of an open folder, and on another one."""
    if request.param == "elsewhere":
        monkeypatch.setattr(module, "_path_of", lambda _: "")
    made = PosixStore(str(tmp_path / "above" / "run"))
    made.create(ENTRY, b"one")
    return made


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that is nobody's business."""
    folder = tmp_path / "outside"
    for name in ("thesis.tex", "000000000001.json", "log/000000000001.json", ".x.0123456789abcdef.tmp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("years of work")
        os.utime(folder / name, (0, 0))
    return folder


@pytest.fixture(autouse=True)
def no_wait() -> Iterator[None]:
    """End a test that waits, for the other end of a FIFO say."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def swapped(path: Path, target: Path | str) -> None:
    """Put a link in the place of what is there."""
    path.rename(f"{path}.away")
    path.symlink_to(target)


VERBS: dict[str, Callable[[PosixStore], object]] = {
    "create": lambda s: s.create("_holdfast/log/000000000002.json", b"two"),
    "write": lambda s: s.write("_holdfast/log/data", [b"two"]),
    "replace": lambda s: s.replace("_holdfast/log/checkpoint", b"two"),
    "read": lambda s: s.read(ENTRY),
    "read_into": lambda s: s.read_into(ENTRY, 0, memoryview(bytearray(3))),
    "open": lambda s: s.open(ENTRY),
    "size": lambda s: s.size(ENTRY),
    "list": lambda s: s.list("_holdfast/log"),
    "delete_folder": lambda s: s.delete_folder("_holdfast/log/folder"),
    "remove_leftovers": lambda s: s.remove_leftovers("_holdfast/log"),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("level", ["..", ".", "_holdfast", "_holdfast/log"])
def test_no_verb_follows_a_link_to_a_folder(store: PosixStore, outside: Path, level: str, verb: str) -> None:
    """A folder that has become a link is an error that names it, for every verb: one of the run, the run directory
    itself, one above it. Guards against files that a coordinator makes, reads and deletes where a link leads, as its
    own user."""
    shutil.copytree(f"{store.url}/_holdfast", outside / "run" / "_holdfast")
    shutil.copytree(f"{store.url}/_holdfast", outside / "_holdfast")
    before = contents(outside)
    place = Path(os.path.normpath(f"{store.url}/{level}"))
    swapped(place, outside)
    with pytest.raises(StorageError, match=f"{place} is a symbolic link") as raised:
        VERBS[verb](store)
    assert raised.value.object.startswith(store.url)
    assert contents(outside) == before


@pytest.mark.parametrize("target", ["outside", "outside/thesis.tex", "nothing", "loop", "/proc/self/fd", "/dev/zero"])
@pytest.mark.parametrize("level", ["_holdfast/log", ENTRY])
@pytest.mark.parametrize("verb", ["read", "read_into", "open", "size"])
def test_an_object_behind_a_link_is_unreadable(
    store: PosixStore, outside: Path, level: str, target: str, verb: str
) -> None:
    """An object behind a link is neither read nor called missing, wherever the link leads. Guards against another
    user's file that is shown in an error, memory without end, and a log that seems to have ended."""
    place = Path(store.url, level)
    swapped(place, {"outside": outside, "loop": place}.get(target, outside.parent / target))
    with pytest.raises(StorageError, match=f"{place} is a symbolic link"):
        VERBS[verb](store)


@pytest.mark.parametrize("target", ["thesis.tex", "nothing"])
def test_what_is_made_does_not_go_through_a_link(store: PosixStore, outside: Path, target: str) -> None:
    """A link in the place of a new object is a taken name, and `replace` replaces the link. Guards against a file of
    the user that is overwritten, or made, where a link leads."""
    before = contents(outside)
    os.symlink(outside / target, f"{store.url}/a")
    assert not store.create("a", b"x")
    with pytest.raises(StorageError, match="exists"):
        store.write("a", [b"x"])
    assert os.path.islink(f"{store.url}/a")
    store.replace("a", b"x")
    assert store.read("a") == b"x"
    assert contents(outside) == before


def test_a_folder_that_becomes_a_link_in_the_middle_of_a_create(
    store: PosixStore, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A create goes on in the folder in which it began. Guards against a check that is true no more when the file is
    made."""
    before = contents(outside)
    write = Folder.write

    def late(folder: Folder, *arguments: object, **options: bool) -> int:
        swapped(Path(store.url, "_holdfast/log"), outside)
        return write(folder, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Folder, "write", late)
    assert store.create("_holdfast/log/000000000002.json", b"two")
    assert contents(outside) == before
    assert Path(store.url, "_holdfast/log.away/000000000002.json").read_bytes() == b"two"


@pytest.mark.parametrize("name", ["ckpt", "ckpt/local", "ckpt/b"])
def test_a_link_is_deleted_and_not_followed(store: PosixStore, outside: Path, name: str) -> None:
    """Deleting deletes a link, in place of the folder or within it, and not what it names. Guards against a folder of
    the user's that is emptied at the next change of the lead."""
    before = contents(outside)
    store.write("ckpt/a", [b"x"])
    if name == "ckpt":
        shutil.rmtree(f"{store.url}/ckpt")
    os.symlink(outside, f"{store.url}/{name}")
    store.delete_folder("ckpt")
    assert not os.path.lexists(f"{store.url}/ckpt")
    assert contents(outside) == before


@pytest.mark.parametrize("moment", ["delete", "inner"])
def test_a_folder_that_becomes_a_link_while_it_is_deleted(
    store: PosixStore, outside: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A folder that becomes a link after it was listed (`delete`), or looked at (`inner`), is not followed. Guards
    against trust in what a folder was a moment ago."""
    before = contents(outside)
    store.write("ckpt/zzz/a", [b"x"])
    real = getattr(Folder, moment)

    def late(folder: Folder, name: str, *arguments: int, **options: bool) -> object:
        if name == "zzz" and not os.path.islink(f"{store.url}/ckpt/zzz"):
            os.rename(f"{store.url}/ckpt/zzz", f"{store.url}/ckpt/.zzz")
            os.symlink(outside, f"{store.url}/ckpt/zzz")
        return real(folder, name, *arguments, **options)

    monkeypatch.setattr(Folder, moment, late)
    with pytest.raises(StorageError):  # something came in meanwhile
        store.delete_folder("ckpt")
    monkeypatch.undo()
    store.delete_folder("ckpt")
    assert store.list() == ["_holdfast/"]
    assert contents(outside) == before


def test_a_deep_folder_is_an_error(store: PosixStore) -> None:
    """A folder in a hundred folders is not deleted, and an error says so. Guards against descriptors and a stack that
    somebody else can use up."""
    os.makedirs(f"{store.url}/ckpt/" + "a/" * 100)
    with pytest.raises(StorageError, match="nested deeper than a checkpoint"):
        store.delete_folder("ckpt")


def fifo(path: str) -> None:
    os.mkfifo(path)


def listening(path: str) -> None:
    here = os.getcwd()
    os.chdir(os.path.dirname(path))  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.basename(path))
    os.chdir(here)


def device(path: str) -> None:
    if os.geteuid():
        pytest.skip("only root can make a device")
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))


@pytest.mark.parametrize(
    ("put", "what"), [(fifo, "a FIFO"), (listening, "a socket"), (device, "a device"), (os.mkdir, "a folder")]
)
@pytest.mark.parametrize("verb", ["read", "read_into", "open", "size"])
def test_only_regular_files_are_opened(store: PosixStore, put: Callable[[str], None], what: str, verb: str) -> None:
    """What is not a regular file is an error at once. Guards against a chief that waits for ever for the writer of a
    FIFO, or reads from a device without end."""
    os.unlink(f"{store.url}/{ENTRY}")
    put(f"{store.url}/{ENTRY}")
    if put is os.mkdir and verb == "size":
        assert store.size(ENTRY) is None  # as of every storage
        return
    with pytest.raises(StorageError, match=f"{ENTRY}: it is {what}, not a file"):
        VERBS[verb](store)


def test_a_sparse_giant_takes_no_memory(store: PosixStore) -> None:
    """A file of two terabytes is an error before any of it is read. Guards against `ls` on a run that ends for lack of
    memory."""
    os.truncate(f"{store.url}/{ENTRY}", 2 << 40)
    with pytest.raises(TooLarge, match=ENTRY):
        store.read(ENTRY)
    assert store.size(ENTRY) == 2 << 40


def test_a_link_is_listed_for_what_it_may_be(store: PosixStore, outside: Path) -> None:
    """A link is listed as an object and as a folder, without a look at what it names. Guards against a checkpoint that
    somebody has moved to another disk, and which would silently not be restored; and a mount that a link to it would
    call up."""
    for name, target in (("ckpt-1", outside), ("ckpt-2.index", "nothing")):
        os.symlink(target, f"{store.url}/{name}")
    assert store.list() == ["_holdfast/", "ckpt-1", "ckpt-1/", "ckpt-2.index", "ckpt-2.index/"]
    with pytest.raises(StorageError, match="put in its place what it names, or mount that there"):
        store.read("ckpt-1/manifest.json")


def test_a_user_may_link_his_run_directory(store: PosixStore, tmp_path: Path) -> None:
    """A run directory that its user reaches by a link is opened once, where the link leads then. Guards against users
    whose home or scratch folder is a link, and against a link that is changed under a job."""
    link = tmp_path / "my run"
    link.symlink_to(store.url)
    opened = open_store(link)
    link.unlink()
    link.symlink_to(tmp_path)
    assert opened.url == store.url
    assert opened.read(ENTRY) == b"one"


def test_a_run_directory_that_was_made_again(store: PosixStore) -> None:
    """A run directory that was removed and made again, or moved away and back, is the run directory. Guards against a
    coordinator that must be started again when its user clears a run between two jobs."""
    shutil.rmtree(store.url)
    assert store.list() == []
    assert store.size(ENTRY) is None
    assert store.create(ENTRY, b"again")
    assert store.read(ENTRY) == b"again"


def test_a_file_that_is_lent_is_waited_for(store: PosixStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that a file server has lent to a client is asked for again. Guards against an object that cannot be read
    on the file server itself for as long as a client uses it."""
    real, refusals, slept = os.open, [1, 2], []

    def lent(path: str, flags: int, *arguments: int, **options: int) -> int:
        if flags & os.O_NONBLOCK and refusals:
            refusals.pop()
            raise BlockingIOError
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", lent)
    monkeypatch.setattr("time.sleep", slept.append)
    assert store.read(ENTRY) == b"one"
    assert len(slept) == 2


def test_no_descriptor_is_left_open(store: PosixStore, outside: Path) -> None:
    """Verbs leave no descriptor open, whether they succeed or fail. Guards against a coordinator that can open nothing
    any more after a thousand tries."""

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    store.write("_holdfast/log/folder/x", [b"x"])
    for verb in VERBS.values():
        found = verb(store)
        if verb is VERBS["open"] and isinstance(found, int):
            os.close(found)
    assert count() == before
    swapped(Path(store.url, "_holdfast/log"), outside)
    for verb in VERBS.values():
        with pytest.raises(StorageError):
            verb(store)
    assert count() == before


@pytest.mark.parametrize("umask", [0, 0o002, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o755, 0o775, 0o2775, 0o2770, 0o2755])
def test_a_setgid_folder_is_its_group_s(tmp_path: Path, mode: int, umask: int) -> None:
    """In a folder with the setgid bit, the group may do in new folders what it may do there, and read new files,
    whatever the umask. Elsewhere the umask decides. Guards against a checkpoint of one user that the other one, who
    runs the coordinator, can neither complete nor remove."""
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(mode)
    store = PosixStore(str(root / "run"))
    before = os.umask(umask)
    try:
        store.write("ckpt/local/data", [b"x"])
        store.create("ckpt/index", b"x")
        store.replace("checkpoint", b"x")
    finally:
        os.umask(before)
    shared = mode & stat.S_ISGID
    folders = {stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*") if path.is_dir()}
    files = {stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*") if path.is_file()}
    assert folders == {0o777 & ~umask | ((mode & 0o070) | stat.S_ISGID if shared else 0)}
    assert files == {0o666 & ~umask | (0o040 if shared else 0)}


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_that_is_not_shared_yet_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    """A shared folder that another process has just made is used only when it is shared, but for one that stays as it
    is. Guards against a worker whose objects are in a folder that the group may not look into, since two workers have
    begun at the same time."""
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o2770)
    store = PosixStore(str(root))
    (root / "ckpt").mkdir()
    (root / "ckpt").chmod(0o2700)
    slept: list[float] = []
    real = time.time

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if finished and len(slept) == 2:
            (root / "ckpt").chmod(0o2770)
        if len(slept) == 3:
            monkeypatch.setattr("time.time", lambda: real() + 10.0)

    monkeypatch.setattr("time.sleep", sleep)
    before = os.umask(0o077)
    try:
        store.write("ckpt/local/data", [b"x"])
        store.write("ckpt/data", [b"x"])
    finally:
        os.umask(before)
    assert len(slept) == (2 if finished else 3)
    modes = [stat.S_IMODE((root / "ckpt" / name).stat().st_mode) for name in (".", "local", "local/data", "data")]
    assert modes == ([0o2770, 0o2770, 0o640, 0o640] if finished else [0o2700, 0o2700, 0o600, 0o600])
