"""From what a user writes to a run directory."""

from __future__ import annotations

import os
import re
import sys
import traceback
from pathlib import Path

import pytest

from holdfast_storage.errors import InvalidRequest
from holdfast_storage.store import normalise, open_store
from holdfast_storage.store.url import led_to


def test_local_directories_have_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local directory has one name, however it is written. Guards against two workers in one directory that are told
    that their runs differ."""
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    monkeypatch.chdir(tmp_path)
    expected = f"{os.path.realpath(real)}/run"
    for name in (real / "run", f"{real}/run/", f"{real}//x/../run", "real/run", "./link/run", f"file://{real}/run"):
        assert normalise(name) == expected
        assert open_store(name).url == expected
    assert normalise(expected) == expected


def test_links_of_a_path_that_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links on the way to a known folder are followed, and nothing else of the host is looked at. Guards against a
    stranger's path at which something is mounted, such as /net/HOST/x, or which a dead server never lets go."""
    here = Path(os.path.realpath(tmp_path))
    known, elsewhere = here / "known", here / "elsewhere"
    for folder in (known, elsewhere):
        folder.mkdir()
    (here / "link").symlink_to("known")
    (here / "loop").symlink_to("loop")
    (known / "within").symlink_to("../link/run")
    (known / "out").symlink_to(elsewhere / "secret")
    (elsewhere / "back").symlink_to(known)
    looked: list[str] = []

    def readlink(path: str) -> str:
        looked.append(path)
        return os.fsdecode(read(path))

    read = os.readlink
    monkeypatch.setattr(os, "readlink", readlink)
    for path in (
        known / "run",
        f"{known}//./run/",
        here / "link/run",
        known / "within",
        f"file://{here}/link/x/../run",
    ):
        assert led_to(str(path), [str(known)]) == f"{known}/run"
    assert led_to(str(known / "run"), [str(known / "run" / "deeper")]) == f"{known}/run"
    for path in (known / "out", elsewhere / "back" / "run", here / "loop", "known", "", f"{known}/\0", "/net/host/x"):
        assert led_to(str(path), [str(known)]) == ""
    assert not [path for path in looked if path.startswith((f"{elsewhere}/", "/net/"))]
    assert led_to("s3://bucket/a/../b", [str(known)]) == "s3://bucket/a/../b"


@pytest.mark.parametrize(
    "url", ["memory://a/b", "memory:///a/b", "memory://a/b/", "MEMORY://a//b", "memory://a/c/../b"]
)
def test_memory_directories_have_one_name(url: str) -> None:
    """A directory in memory has one name, however it is written. Guards against two workers in one directory that are
    told that their runs differ."""
    assert normalise(url) == "memory://a/b"


def test_memory_is_shared_within_the_process(tmp_path: Path) -> None:
    """All stores of one process share `memory://`. Guards against a test whose workers each have their own memory."""
    open_store(f"memory:/{tmp_path}").write("a", [b"x"])
    assert open_store(f"memory://{tmp_path}").read("a") == b"x"


@pytest.mark.parametrize("url", ["/tmp/a[1]/run", "/tmp/run*", "file:///tmp/a?b", "memory://a[1]"])
def test_patterns_are_refused(url: str) -> None:
    """A path with pattern characters is refused. Guards against a run that saves well and in which stock TensorFlow
    finds nothing: its latest_checkpoint is None."""
    with pytest.raises(InvalidRequest, match="latest_checkpoint would not find"):
        open_store(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/a/run", "s3://bucket/a/run"),
        ("S3://bucket//a/./b/../run/", "s3://bucket/a/run"),
        ("s3a://bucket/a/run", "s3://bucket/a/run"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/../../a", "s3://bucket/a"),
        ("gcs://bucket/a/run", "gs://bucket/a/run"),
        ("gs://bucket/a/run/", "gs://bucket/a/run"),
        ("abfs://container/a", "az://container/a"),
        ("abfss://container@account.dfs.core.windows.net/a/", "az://container@account.dfs.core.windows.net/a"),
        ("az://container/a", "az://container/a"),
        ("SFTP://user@host/a//run/", "sftp://user@host/a/run"),
    ],
)
def test_urls_have_one_form(url: str, expected: str) -> None:
    """A URL has one form, however it is written. Guards against two workers in one bucket that are told that their runs
    differ, or that have a run each."""
    assert normalise(url) == expected
    assert normalise(expected) == expected


def test_an_unknown_protocol_is_refused() -> None:
    """An unknown protocol is refused. Guards against a URL taken for a local path, with everything saved below
    `./s33:`."""
    with pytest.raises(InvalidRequest, match=r"s33:// is not known.*gs.*memory.*s3, .*sftp"):
        open_store("s33://bucket/run")


@pytest.mark.parametrize("url", [Path("s3://bucket/run"), "file:/tmp/run"])
def test_a_url_made_a_path_is_refused(url: str | Path) -> None:
    """A URL that pathlib has changed is refused. Guards against checkpoints on each worker's own disk below `./s3:`,
    where no later job finds them."""
    with pytest.raises(InvalidRequest, match="two slashes"):
        open_store(url)


@pytest.mark.parametrize("url", ["simplecache::s3://bucket/run", "1s3://bucket"])
def test_half_a_url_is_refused(url: str) -> None:
    """Half a URL is refused. Guards against the same, if the protocol does not look like one."""
    with pytest.raises(InvalidRequest, match="URL of one protocol"):
        open_store(url)


@pytest.mark.parametrize(
    ("protocol", "package", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs"), ("abfs", "adlfs", "azure")]
)
def test_a_missing_package_is_named(protocol: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package is named with its install command. Guards against a ModuleNotFoundError for a package that the
    user has never heard of."""
    for module in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"holdfast_storage.store.objects.{extra}", raising=False)
    with pytest.raises(InvalidRequest, match=re.escape(f"pip install 'holdfast[{extra}]'")):
        open_store(f"{protocol}://bucket/run")


@pytest.mark.parametrize(
    "url",
    [
        "sftp://user:hush@host/run",
        "s3://key:hush@bucket/run",
        "s3://:hush@bucket/run",
        "az://container/run?sv=2&sig=hush",
        "gs://bucket/run?hush",
        "x:://user:hush@host/run",
    ],
)
def test_secrets_in_urls_are_refused_and_not_repeated(url: str) -> None:
    """A URL with a secret is refused, and the secret is not repeated. Guards against a password in the log of every
    worker, in the run's own log, and on the wire."""
    with pytest.raises(InvalidRequest) as raised:
        open_store(url)
    assert "hush" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("url", ["s3://", "s3:///run", "gs:///", "az://"])
def test_a_url_without_a_bucket_is_refused(url: str) -> None:
    """A URL without a bucket is refused. Guards against a run in a bucket called `run`."""
    with pytest.raises(InvalidRequest, match=r"names no (bucket|container)"):
        open_store(url)


def test_azure_must_know_its_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing Azure account is an error that says where to set it. Guards against a library's message that
    does not."""
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_CONNECTION_STRING"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidRequest, match="AZURE_STORAGE_ACCOUNT_NAME"):
        open_store("az://container/run")
    with pytest.raises(InvalidRequest, match="account one, and storage_options another"):
        open_store("abfss://container@one.dfs.core.windows.net/run", {"account_name": "two", "anon": True})


@pytest.mark.parametrize("url", ["", "/", "memory://", "file:///"])
def test_no_folder_at_all(url: str) -> None:
    """The root of a file system is refused. Guards against a root as run directory."""
    with pytest.raises(InvalidRequest):
        open_store(url)


def test_options_for_a_local_path_are_refused(tmp_path: Path) -> None:
    """storage_options for a local path are refused. Guards against credentials that a user believes to be in use."""
    with pytest.raises(InvalidRequest, match="storage_options"):
        open_store(tmp_path, {"key": "x"})


def test_opening_touches_nothing(tmp_path: Path) -> None:
    """Opening a store touches nothing. Guards against a reader that makes the directory that it has misspelt."""
    store = open_store(tmp_path / "run")
    assert store.list() == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("url", ["/tmp/\0", "/tmp/\udcff", "memory://\udcff"])
def test_names_that_cannot_be_sent(url: str) -> None:
    """A path that is not UTF-8 is refused at once. Guards against a UnicodeEncodeError of the protocol after all
    workers have joined."""
    with pytest.raises(InvalidRequest, match="cannot be used"):
        open_store(url)
