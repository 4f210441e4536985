"""What libraries and servers say, without the secrets in it."""

from __future__ import annotations

import time
import traceback
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from holdfast_storage import scrub
from holdfast_storage.errors import StorageError
from holdfast_storage.failure import Failure
from holdfast_storage.failure_message import encode
from holdfast_storage.scrub import HIDDEN, keep_secret, scrubbed
from holdfast_storage.told import TOLD, fit, told
from support.evil import EVIL, faults

SECRET = "s3cr3t/K+y="


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "_kept", deque())


@pytest.mark.parametrize(
    "said",
    [
        f"PUT /bucket/a?X-Amz-Credential=AK/2026&X-Amz-Security-Token={SECRET}&X-Amz-Signature={SECRET}",
        f"https://acc.blob.core.windows.net/c/a?sv=2024&se=2026&sig={SECRET}",
        f"url='https://storage.googleapis.com/b/a?x-goog-signature={SECRET}&amp;x=y'",
        f"GET http://host/a?token={SECRET} failed",
        f"sv=2024&sig={SECRET}",
        f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={SECRET};EndpointSuffix=x",
        f"BlobEndpoint=http://host/a;SharedAccessSignature=sv=2021&sig={SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"{{'Authorization': 'AWS4-HMAC-SHA256 Credential=AK/x, SignedHeaders=a;b, Signature={SECRET}', 'Host': 'h'}}",
        f'{{"authorization": "SharedKey acc:{SECRET}"}}',
        f"sent Basic {SECRET}",
        f"'X-Amz-Security-Token': '{SECRET}'",
        f"x-amz-security-token: {SECRET}",
        f"proxy http://user:{SECRET.replace('/', '')}@proxy:3128 refused",
        f"ftp://user:{SECRET.replace('/', '')}@host/a",
        "https://ghp_s3cr3tK+y=@github.com/x",
        f"client_secret={SECRET}",
        f'{{"refresh_token": "{SECRET}"}}',
        f"password: {SECRET}",
        f"Set-Cookie: session={SECRET}; Path=/",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----",
        f"-----BEGIN RSA PRIVATE KEY----- {SECRET}",
    ],
)
def test_what_looks_secret_is_hidden(said: str) -> None:
    """Keys, tokens, signatures and passwords are hidden in every form in which they are sent. Guards against an error
    with a signed URL in it, in the log of every worker."""
    for form in (told(said), scrubbed(said)):
        assert SECRET not in form
        assert SECRET.replace("/", "") not in form


@pytest.mark.parametrize("key", ["AKIAIOSFODNN7EXAMPLE", "ya29.a0AfH6SMBx", "eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJ"])
def test_what_looks_like_a_key_is_hidden_anywhere(key: str) -> None:
    """A text that can only be a key is hidden wherever it stands. Guards against prose with a key in it."""
    assert scrubbed(f"the key {key} is not known") == f"the key {HIDDEN} is not known"


@pytest.mark.parametrize(
    "said",
    [
        "An error occurred (ExpiredToken) when calling the GetObject operation: The provided token has expired.",
        "NoSuchKey: The specified key does not exist.",
        "The AWS Access Key Id you provided does not exist in our records.",
        "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly",
        "Could not connect to the endpoint URL: http://127.0.0.1:1/bucket/run",
        "give account_key, sas_token or connection_string in storage_options",
        "Bearer authentication is required, basic authentication is not",
        "abfss://container@account.dfs.core.windows.net/run, ftp://user@host/run",
        "ckpt-7.0a1b2c3d.1/ckpt-7.index: is it here? yes",
    ],
)
def test_what_explains_an_error_stays(said: str) -> None:
    """What explains an error stays. Guards against an error that hides its own reason."""
    assert told(said) == said


@pytest.mark.parametrize(
    "options",
    [
        {"secret": SECRET},
        {"client_kwargs": {"aws_session_token": SECRET}},
        {"headers": {"X-Api-Key": SECRET}, "auth": None},
        {"auth": ("user", SECRET)},
        {"token": {"type": "authorized_user", "refresh_token": SECRET}},
        {"connection_string": f"AccountName=acc;AccountKey={SECRET}"},
        {"sas_token": f"?sv=2021&sig={SECRET}"},
        {"password": SECRET.encode()},
        {"private_key": f"-----BEGIN KEY-----\n{SECRET}{SECRET}\n-----END KEY-----"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_options_of_a_storage(options: dict[str, Any]) -> None:
    """What is secret in the options of a storage is hidden as it is, as in a URL and as in a literal. Guards against a
    library that repeats a setting in words of its own."""
    keep_secret(options)
    for form in (SECRET, "s3cr3t%2FK%2By%3D"):
        said = f"I do not like {form}{form} here"
        assert form not in scrubbed(said)
        assert scrubbed(said).startswith("I do not like ***")


def test_settings_are_not_secret(tmp_path: Path) -> None:
    """Addresses, names and files of keys stay. Guards against errors in which every second word is hidden."""
    (tmp_path / "key.json").write_text("{}")
    options = {
        "endpoint_url": "http://storage:9000",
        "account_name": "account17",
        "key": "training",
        "token": str(tmp_path / "key.json"),
        "anon": False,
        "key_file": "/nowhere/id17",
        "client_kwargs": {"region_name": "eu-west-1", "headers": {"User-Agent": "holdfast/1.0"}},
    }
    keep_secret(options)
    text = f"http://storage:9000 account17 training {tmp_path / 'key.json'} /nowhere/id17 eu-west-1 holdfast/1.0"
    assert scrubbed(text) == text


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets in the environment are hidden, by their names. Guards against a key that only the library has read."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/service17")
    assert scrubbed(f"{SECRET}, /nowhere/service17") == "***, /nowhere/service17"


def test_a_page_is_told_in_a_line() -> None:
    """Of a page of HTML, the words are told, and few of them. Guards against three thousand characters of markup in the
    error of a save."""
    page = f"<!DOCTYPE html>\n<html><head><style>a {{b: c}}</style><title>502 Bad\nGateway</title></head>{'x' * 3000}"
    assert told(page).startswith("502 Bad Gateway xxx")
    assert len(told(page)) == TOLD
    assert told(f"<?xml version='1.0'?><Error><Code>Denied</Code></Error>{EVIL}").startswith("Denied ")
    assert not faults(told(EVIL))
    assert told(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    "bit", [":", "a", "<", "a://:", "<html", "<script", "-eyJ", "token", "?a=", '"', "sig=", "Basic "]
)
def test_a_long_answer_takes_no_time(bit: str) -> None:
    """Whatever a server answers is scrubbed at once. Guards against an expression whose time grows with the square."""
    began = time.process_time()
    told("<html>" + bit * (1 << 16))
    scrubbed(bit * ((1 << 17) // len(bit)))
    assert time.process_time() - began < 2.0


def test_a_chain_of_causes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cause in a traceback is fit to be shown, and says its type and place; one that is fit stays. Guards against
    a text that is hidden in an error, and printed below it."""

    def chain(text: str) -> BaseException:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise ConnectionError(text)  # noqa: B904
        except ConnectionError as error:
            (raised := StorageError("third")).__cause__ = error
            return raised

    assert fit(plain := chain("second")) is plain
    shown = "".join(traceback.format_exception(fit(chain(f"password={SECRET} {EVIL}"))))
    assert SECRET not in shown
    assert not faults(shown)
    for part in ("KeyError: 'first'", "ConnectionError: password=***", "StorageError: third", "in chain"):
        assert part in shown


def test_what_is_told_to_others() -> None:
    """A failure on the wire holds no secret and one visible line. Guards against a worker that tells all others."""
    message = encode(Failure.of(ValueError(f"password={SECRET}\x1b[2J"))).message
    assert SECRET not in message
    assert not faults(message)
