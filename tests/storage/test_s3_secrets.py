"""What is said about S3 where something is wrong with its address: nothing that is secret."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from typing import Any

import pytest

from holdfast_storage.errors import InvalidRequest, StorageError
from holdfast_storage.store import open_store
from holdfast_storage.store.objects import store as object_store

GIVEN = {"key": "name", "secret": "hush"}
NOBODY = "127.0.0.1:1"


def told(error: BaseException) -> str:
    """As in a log."""
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "endpoint",
    [
        f"http://user:hush@{NOBODY}",
        f"http://hush@{NOBODY}",
        f"http://user:hu/sh@{NOBODY}",
        f"user:hush@{NOBODY}",
        "http://user:hush@host:port",
        f"http://{NOBODY}/?token=hush",
    ],
)
@pytest.mark.parametrize("place", ["options", "client_kwargs", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_a_password_in_the_endpoint_is_refused(monkeypatch: pytest.MonkeyPatch, endpoint: str, place: str) -> None:
    """An endpoint with a password is refused. Guards against a password in the log of every worker."""
    options: dict[str, Any] = dict(GIVEN)
    if place == "options":
        options["endpoint_url"] = endpoint
    elif place == "client_kwargs":
        options["client_kwargs"] = {"endpoint_url": endpoint}
    else:
        monkeypatch.setenv(place, endpoint)
    with pytest.raises(InvalidRequest, match="The endpoint of S3") as raised:
        open_store("s3://bucket/run", options)
    assert "hu" not in told(raised.value)


def test_a_password_in_the_endpoint_of_a_profile_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An endpoint with a password in a profile is refused. Guards against the same, from a file that only the library
    reads."""
    (tmp_path / "config").write_text(f"[default]\nendpoint_url = http://user:hush@{NOBODY}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    store = open_store("s3://bucket/run", GIVEN)
    for call in (store.list, lambda: store.read("a"), lambda: store.create("a", b"")):
        with pytest.raises(InvalidRequest, match="The endpoint of S3") as raised:
            call()
        assert "hush" not in told(raised.value)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"token": "hush"},
        {"config_kwargs": {"proxies": {"http": "http://user:hush@127.0.0.1:2"}}},
        {"client_kwargs": {"nonsense": "hush"}},
        {"nonsense": "hush"},
    ],
    ids=str,
)
def test_errors_and_logs_are_free_of_secrets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, more: dict[str, Any]
) -> None:
    """Errors and logs contain no secrets. Guards against a key in an error that is logged by every worker and sent to
    the coordinator."""
    monkeypatch.setattr(object_store, "FIRST_PATIENCE", 0.0)
    store = open_store("s3://bucket/run", {**GIVEN, "endpoint_url": f"http://{NOBODY}", **more})
    with caplog.at_level(logging.DEBUG, "holdfast.storage"):
        for call in (store.list, lambda: store.read("a"), lambda: store.create("a", b""), lambda: store.size("a")):
            with pytest.raises(StorageError) as raised:
                call()
            assert "hush" not in told(raised.value)
    assert "hush" not in caplog.text
