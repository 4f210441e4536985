"""What is said of a server that refuses, redirects, or repeats what it was asked: a line, and nothing secret."""

from __future__ import annotations

import base64
import json
import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from xml.sax.saxutils import escape

import pytest
from google.oauth2.credentials import Credentials

from holdfast_storage.errors import StorageError
from holdfast_storage.store import Store, open_store
from holdfast_storage.store.objects import store as object_store
from support.evil import EVIL, faults

KEY, SECRET, TOKEN, SIGNATURE = "CANARYKEY1", "CANARYSECRET2", "CANARYTOKEN3", "CANARYSIG4"
ACCOUNT_KEY = base64.b64encode(b"CANARYACCOUNT5").decode()

Options = tuple[str, dict[str, Any]]
PLACES: dict[str, Callable[[str], Options]] = {
    "s3": lambda at: ("s3://bucket/run", {"key": KEY, "secret": SECRET, "token": TOKEN, "endpoint_url": at}),
    "azure by key": lambda at: (
        "az://container/run",
        {"connection_string": f"AccountName=acc;AccountKey={ACCOUNT_KEY};BlobEndpoint={at}/acc;"},
    ),
    "azure by signature": lambda at: (
        "az://container/run",
        {"connection_string": f"BlobEndpoint={at}/acc;SharedAccessSignature=sv=2021&sig={SIGNATURE}"},
    ),
    "google": lambda at: ("gs://bucket/run", {"token": Credentials(TOKEN), "endpoint_url": at}),
    "google without token": lambda at: (
        "gs://bucket/run",
        {"endpoint_url": at, "token": Credentials(None, SECRET, None, f"{at}/token", KEY, TOKEN)},
    ),
    "http": lambda at: (f"{at}/run", {"client_kwargs": {"headers": {"Authorization": f"Bearer {TOKEN}"}}}),
}
VERBS: tuple[Callable[[Store], object], ...] = (
    lambda store: store.list(),
    lambda store: store.read("a"),
    lambda store: store.create("a", b"x"),
    lambda store: store.delete_folder("a"),
)


class Refusing(ThreadingHTTPServer):
    """A server that refuses everything, in a way that a test chooses."""

    answer = ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Refusing

    def refuse(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, body, headers = 403, "", {}
        match self.server.answer:
            case "repeats":
                visible = "".join(c for c in EVIL if c.isprintable() or c in "\x9b\u202e\n")  # as XML allows
                told = f"you sent {self.path} {dict(self.headers)} {visible}".replace('"', "'")
                body = f"<Error><Code>AccessDenied</Code><Message>{escape(told)}</Message></Error>"
                if "/storage/" in self.path or "/token" in self.path:
                    body = json.dumps({"error": {"code": 403, "message": told}, "error_description": told})
            case "a page":
                status, body = 400, f"<html><head><title>Bad</title></head><body>{'x' * 3000}"
            case "redirects":
                status, headers = 307, {"Location": f"{self.server.address}/elsewhere?sig={SIGNATURE}"}
        data = body.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/xml", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = refuse

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusing]:
    for patience in ("FIRST_PATIENCE", "PATIENCE"):
        monkeypatch.setattr(object_store, patience, 0.0)
    server = Refusing(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def error_of(call: Callable[[], object]) -> StorageError | None:
    try:
        call()
    except StorageError as error:
        return error
    except FileNotFoundError:
        pass
    return None


@pytest.mark.parametrize("place", PLACES)
def test_answers(server: Refusing, caplog: pytest.LogCaptureFixture, place: str) -> None:
    """Errors, their causes and our log lines are short, visible, and free of what only the caller knows. Guards against
    a server, or a proxy before it, whose errors repeat headers and signed URLs: each worker logs them and tells all
    others."""
    with caplog.at_level(logging.DEBUG, "holdfast"):
        store = open_store(*PLACES[place](server.address))
        for server.answer in ("repeats", "a page", "redirects"):
            errors = [error for call in VERBS if (error := error_of(lambda call=call: call(store)))]  # type: ignore[misc]
            assert errors  # to fsspec, some answers of HTTP say that there is nothing
            for error in errors:
                shown = "".join(traceback.format_exception(error))
                assert "CANARY" not in shown
                assert not faults(shown)
                assert len(str(error)) < 500
                assert max(map(len, shown.split("\n"))) < 1200
    ours = [record for record in caplog.records if record.name.startswith("holdfast")]
    lines = [caplog.handler.format(record) for record in ours]
    assert not [line for line in lines if "CANARY" in line or faults(line)]
    assert "CANARY" not in repr(store) + repr(vars(store))


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("ftp://user@127.0.0.1:1/run", {"password": SECRET}),
        ("sftp://127.0.0.1:1/run", {"password": SECRET, "nonsense": SECRET}),
        ("az://container/run", {"connection_string": f"nonsense={SECRET}"}),
        ("gs://bucket/run", {"token": SECRET}),
        ("gs://bucket/run", {"token": {"refresh_token": SECRET}}),
    ],
)
def test_a_store_that_cannot_be_opened(url: str, options: dict[str, Any]) -> None:
    """Nor does an error about the options themselves show them. Guards against a library that repeats a setting which
    it does not understand."""
    with pytest.raises(Exception) as raised:  # noqa: PT011
        open_store(url, options).list()
    assert type(raised.value).__module__ == "holdfast_storage.errors"
    assert SECRET not in "".join(traceback.format_exception(raised.value))
