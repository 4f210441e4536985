"""What is special to folders: durability, errors of the operating system, races of real processes."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast_storage.errors import StorageError
from holdfast_storage.store.base import NotCreated
from holdfast_storage.store.folder import Folder
from holdfast_storage.store.posix import PosixStore


@pytest.fixture
def store(tmp_path: Path) -> PosixStore:
    return PosixStore(str(tmp_path / "run"))


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of what is fsynced, in order; a temporary file as `*`."""
    paths: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        paths.append("*" if path.endswith(".tmp") else path)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return paths


RACER = """
import sys
import tempfile
from holdfast_storage.store.folder import Folder
from holdfast_storage.store.posix import PosixStore
store = PosixStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print("".join("1" if store.create(f"log/{n}", sys.argv[2].encode() * 1000) else "0" for n in range(40)))
"""


@pytest.mark.processes
def test_one_of_eight_processes_wins_each_race(store: PosixStore) -> None:
    """Exactly one of eight processes wins each create. Guards against a create that is exclusive only within one
    process, like fsspec's local one: 126 of 300 races had two winners."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, store.url, str(who)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for who in range(8)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    wins = [racer.communicate()[0].strip() for racer in racers]
    for number in range(40):
        winners = [who for who in range(8) if wins[who][number] == "1"]
        assert len(winners) == 1
        assert store.read(f"log/{number}") == b"%d" % winners[0] * 1000
    assert store.list("log") == sorted(str(number) for number in range(40))


def test_write_syncs_the_file_and_every_folder_up_to_the_run(store: PosixStore, synced: list[str]) -> None:
    """A write syncs the file and every folder up to the run directory. Guards against a committed object that a power
    cut takes away together with its folder."""
    store.write("ckpt/local/a", [b"x"])
    synced.clear()
    store.write("ckpt/local/b", [b"x"])
    run = store.url
    assert synced == [f"{run}/ckpt/local/b", f"{run}/ckpt/local", f"{run}/ckpt", run]


def test_new_folders_are_synced_into_their_parents(store: PosixStore, synced: list[str]) -> None:
    """New folders are synced into their parents. Guards against a run directory that a power cut takes away as
    a whole."""
    store.write("ckpt/a", [b"x"])
    assert synced[:2] == [os.path.dirname(store.url), store.url]


@pytest.mark.parametrize("verb", ["create", "replace"])
def test_small_objects_are_synced_before_they_get_their_name(
    store: PosixStore, synced: list[str], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """A small object is synced before it gets its name. Guards against a log entry that is there after a power cut, but
    empty."""
    store.write("log/0", [b""])
    synced.clear()
    for name in ("link", "rename"):
        real: Callable[[Folder, str, str], None] = getattr(Folder, name)

        def recorded(folder: Folder, name: str, new: str, real: Callable[[Folder, str, str], None] = real) -> None:
            synced.append("named")
            real(folder, name, new)

        monkeypatch.setattr(Folder, name, recorded)
    getattr(store, verb)("log/1", b"x")
    assert synced == ["*", "named", f"{store.url}/log"]


def test_what_is_there_already_is_durable_too(store: PosixStore, synced: list[str]) -> None:
    """A create that finds its object there makes it durable. Guards against an entry that is built on an object whose
    maker was killed before the folder was synced, and that a power cut takes away."""
    store.write("log/0", [b""])
    os.close(os.open(f"{store.url}/log/1", os.O_CREAT | os.O_WRONLY))
    synced.clear()
    assert not store.create("log/1", b"")
    assert synced == ["*", f"{store.url}/log"]


def test_partial_writes_are_completed(store: PosixStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partial writes are completed. Guards against write(2), which takes at most 2 GiB at a time and may take less."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data[:3])))
    assert store.write("a", [b"0123456789", b"abcd"]) == 14
    assert store.read("a") == b"0123456789abcd"


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_disk_full(store: PosixStore, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """A full disk is an error that names the object, and no fsync is repeated. Guards against a second fsync, which
    would report success."""
    calls = []

    def full(*_: object) -> int:
        calls.append(call)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store.write("ckpt/first", [b"x"])
    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError, match="No space left") as raised:
        store.write("ckpt/a", [b"x"])
    assert raised.value.object == f"{store.url}/ckpt/a"
    assert f"{store.url}/ckpt/a" in str(raised.value)
    assert calls == [call]


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_create_that_made_nothing_says_so(store: PosixStore, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """On a full disk a create says that it made nothing. Guards against an unknown outcome that would have to be
    settled on that same full disk."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store.create("log/0", b"x")
    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(NotCreated, match="No space left"):
            store.create("log/1", b"x")
    assert sorted(os.listdir(f"{store.url}/log")) == ["0"]
    assert store.create("log/1", b"x")


def test_a_create_whose_folder_does_not_sync_is_unknown(store: PosixStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the folder does not sync, the outcome is unknown. Guards against an entry that readers see already, reported
    as never made."""
    store.create("log/0", b"x")
    real = os.fsync

    def broken(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StorageError) as raised:
        store.create("log/1", b"x")
    assert not isinstance(raised.value, NotCreated)
    assert store.read("log/1") == b"x"


def test_a_repeated_link_request_is_recognised(store: PosixStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeated link request of NFS is recognised as a success. Guards against a create that fails because its own
    first request, whose answer was lost, has succeeded."""
    real = Folder.link

    def twice(folder: Folder, name: str, new: str) -> None:
        real(folder, name, new)
        real(folder, name, new)

    monkeypatch.setattr(Folder, "link", twice)
    assert store.create("log/1", b"x")


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(Folder, "link", refuse)
    return


@pytest.mark.usefixtures("no_links")
def test_create_where_there_are_no_links(store: PosixStore) -> None:
    """Without hard links a create is still exclusive. Guards against a file system on which nothing can be committed,
    or one thing twice."""
    assert store.create("log/1", b"first")
    assert not store.create("log/1", b"second")
    assert store.read("log/1") == b"first"
    assert os.listdir(f"{store.url}/log") == ["1"]


def told(call: Callable[[], object], user: int) -> str:
    """The StorageError of a call, made in a fork as another user if this one is root."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        try:
            call()
        except StorageError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader) as file:
        return file.read()


def test_a_folder_that_cannot_be_written() -> None:
    """A missing permission is named with the path, and if the folder is another user's, with whose it is. Guards
    against a permission error that looks like something else."""
    with tempfile.TemporaryDirectory() as folder:  # those of pytest are closed to other users
        os.chmod(folder, 0o755)
        store = PosixStore(f"{os.path.realpath(folder)}/run")
        os.mkdir(store.url, 0o500)
        os.chmod(store.url, 0o555)
        error = told(lambda: store.write("ckpt/a", [b"x"]), 65534)
    assert f"{store.url}/ckpt/a: Permission denied" in error
    whose = f"{store.url} belongs to user 0 and group 0, with mode 555, and this is user 65534 of groups 65534"
    assert (whose in error) == (os.geteuid() == 0)


def test_a_file_where_the_run_directory_should_be(store: PosixStore) -> None:
    """A file in place of the run directory is an error. Guards against an endless search for the folder, and a
    traceback."""
    Path(store.url).write_text("x")
    with pytest.raises(StorageError, match="Not a directory"):
        store.write("ckpt/a", [b"x"])
    with pytest.raises(NotCreated, match="Not a directory"):
        store.create("log/0", b"x")


@pytest.mark.parametrize("verb", ["open", "scandir", "stat"])
def test_unreadable_is_not_missing(store: PosixStore, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """An unreadable object is not called missing. Guards against a good checkpoint that is condemned because a mount
    answers with an error."""
    store.write("a", [b"x"])

    def broken(*_: object, **__: object) -> int:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(os, verb, broken)
    ask: dict[str, Callable[[], object]] = {
        "open": lambda: store.read("a"),
        "scandir": store.list,
        "stat": lambda: store.size("a"),
    }
    with pytest.raises(StorageError, match=store.url):
        ask[verb]()


def test_open_files_outlive_their_folder(store: PosixStore) -> None:
    """Open files outlive their folder. Guards against a deferred variable whose file retention has removed before it
    was read."""
    store.write("ckpt/a", [b"0123456789"])
    fd = store.open("ckpt/a")
    try:
        store.delete_folder("ckpt")
        assert os.pread(fd, 4, 3) == b"3456"
    finally:
        os.close(fd)
    with pytest.raises(FileNotFoundError):
        store.open("ckpt/a")


def test_delete_does_not_follow_links(store: PosixStore, tmp_path: Path) -> None:
    """Deleting does not follow symbolic links. Guards against a link in a checkpoint's folder that leads retention out
    of the run."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    store.write("ckpt/a", [b"x"])
    os.symlink(outside, f"{store.url}/ckpt/link")
    store.delete_folder("ckpt")
    assert (outside / "file").exists()


@pytest.mark.parametrize(("folder", "mode"), [(0o755, 0o600), (0o2775, 0o640)])
@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_a_private_object_is_private(store: PosixStore, folder: int, mode: int, umask: int) -> None:
    """Its owner alone can read a private object, or in a setgid folder its group, too. Guards against a run's key that
    every user of the host can read, and one that the other user of a shared run cannot."""
    os.makedirs(f"{store.url}/_holdfast")
    os.chmod(f"{store.url}/_holdfast", folder)
    before = os.umask(umask)
    try:
        assert store.create("_holdfast/key", b"secret", private=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(f"{store.url}/_holdfast/key").st_mode) == mode


def aged(path: Path, seconds: float) -> Path:
    """A file that was last written so long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))
    return path


def test_what_kills_have_left_is_removed(store: PosixStore) -> None:
    """Old temporary files are removed, and nothing else. Guards against a file left by each kill for ever, and deleting
    a living writer's file, an object, or somebody else's file."""
    folder = Path(store.url) / "a"
    left = aged(folder / ".000000000007.json.0123456789abcdef.tmp", 4000.0)
    kept = [
        aged(folder / ".000000000008.json.0123456789abcdef.tmp", 3000.0),
        aged(folder / "000000000007.json", 4000.0),
        aged(folder / ".notes.tmp", 4000.0),
        aged(folder / "notes.0123456789abcdef.tmp", 4000.0),
        aged(folder / "b" / ".000000000007.json.0123456789abcdef.tmp", 4000.0),
    ]
    store.remove_leftovers("a")
    store.remove_leftovers("nothing here")
    assert not left.exists()
    assert all(path.exists() for path in kept)


def test_clocks_of_hosts_do_not_make_leftovers(store: PosixStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clocks of hosts do not matter for leftovers. Guards against a coordinator whose clock is a day ahead and that
    removes a file which a worker is about to name."""
    fresh = aged(Path(store.url) / ".checkpoint.0123456789abcdef.tmp", 0.0)
    monkeypatch.setattr("time.time", lambda: 9e9)
    store.remove_leftovers()
    assert fresh.exists()


def test_who_was_stopped_for_too_long_is_told(store: PosixStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A create whose temporary file was removed meanwhile is not reported as made. Guards against a process that was
    stopped for hours in the middle of a create."""
    link, stops = Folder.link, [True]

    def stopped(folder: Folder, name: str, new: str) -> None:
        if stops:
            stops.clear()
            aged(Path(store.url, name), 4000.0)
            store.create("b", b"somebody else's")
            store.remove_leftovers()
        link(folder, name, new)

    monkeypatch.setattr(Folder, "link", stopped)
    with pytest.raises(StorageError, match="a") as raised:
        store.create("a", b"ours")
    assert not isinstance(raised.value, NotCreated)
    assert store.size("a") is None
    assert store.create("a", b"ours")
