"""`holdfast status` where no worker is."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from click.testing import Result

import holdfast_protos.client
from holdfast.session.hint import Hint
from holdfast_storage.cluster import Task
from holdfast_storage.log.log import Log, Published
from holdfast_storage.records import Entry, Generation, Leader
from support.ports import free_address

Holdfast = Callable[..., Result]
HoldfastJson = Callable[..., Any]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdfast_protos.client, "PATIENCE", 0.1)
    monkeypatch.delenv("HOLDFAST_COORDINATOR", raising=False)


@pytest.fixture
def nobody() -> str:
    """An address at which nobody listens."""
    return free_address()


@pytest.fixture
def mute() -> Iterator[str]:
    """An address where the kernel takes connections and nobody speaks, as for a process that was stopped."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def led(saved: Any, address: str, host: str = "", **changes: Any) -> None:
    """A log entry that says who leads."""
    entry = Log(saved.store).tail()
    generation = Generation("0a1b2c3d", ((Task("worker", 0), "p.1"),))
    state = replace(entry.state.lead(Leader("id", address, host or socket.gethostname()), generation), **changes)
    assert Log(saved.store).publish(Entry(entry.number + 1, "lead", "w", 1.0, state), 5.0) == Published()


def test_a_run_that_nobody_works_on_is_good(saved: Any, nobody: str, holdfast_json: HoldfastJson) -> None:
    """A run that nobody is training has status 0. Guards against an alarm at the end of every job."""
    led(saved, nobody)
    told = holdfast_json("status", saved.path)
    assert told["run"] == str(saved.path)
    assert told["coordinator"]["address"] is None
    (asked,) = told["coordinator"]["asked"]
    assert (asked["address"], asked["from"]) == (nobody, "the log")
    assert f"nobody answers at {nobody}" in asked["answer"]
    assert told["log"]["newest"]["step"] == 20
    assert told["log"]["live"] == 2
    assert told["log"]["leader"] == {"address": nobody, "host": socket.gethostname()}
    assert (told["workers"], told["activity"], told["bad"]) == ([], None, [])


def test_the_text_says_so_plainly(saved: Any, nobody: str, holdfast: Holdfast) -> None:
    """The text says that nobody is training the run. Guards against an empty table that may be good or bad."""
    led(saved, nobody)
    result = holdfast("status", saved.path)
    assert result.exit_code == 0, result.output
    assert "2 live; newest ckpt-20.0a1b2c3d.2/ckpt-20, saved" in result.stdout
    assert f"led by       generation 0a1b2c3d, coordinator at {nobody} on {socket.gethostname()}" in result.stdout
    assert "none answers: nobody is training this run now" in result.stdout
    assert "BAD" not in result.stdout


def test_a_coordinator_that_takes_connections_and_does_not_answer_is_bad(
    saved: Any, mute: str, holdfast: Holdfast
) -> None:
    """A coordinator that accepts connections and does not answer is a finding. Guards against a stopped chief that
    looks like a job that has ended."""
    led(saved, mute)
    result = holdfast("status", saved.path)
    assert result.exit_code == 1
    assert f"BAD  a process listens at {mute} but did not answer" in result.stdout
    assert "named by the log" in result.stdout


def test_hint_and_environment_are_asked_too(
    saved: Any, nobody: str, mute: str, holdfast_json: HoldfastJson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The addresses in the hint and the environment are asked, too. Guards against a job before its first save, which
    is not in the log."""
    Hint(mute, (("worker", ("h:1",)),)).write(saved.store)
    monkeypatch.setenv("HOLDFAST_COORDINATOR", nobody)
    told = holdfast_json("status", saved.path, status=1)
    assert [place["address"] for place in told["coordinator"]["asked"]] == [nobody, mute]
    assert [place["hangs"] for place in told["coordinator"]["asked"]] == [False, True]


def test_a_loopback_address_of_another_host_is_not_asked(saved: Any, mute: str, holdfast_json: HoldfastJson) -> None:
    """A loopback address of another host is not asked. Guards against asking whoever holds that port on this
    machine."""
    led(saved, mute, host="another-host")
    told = holdfast_json("status", saved.path)
    assert told["coordinator"]["asked"][0]["answer"] == "it can be asked only on another-host"


def test_damaged_checkpoints_are_a_finding(saved: Any, nobody: str, holdfast: Holdfast) -> None:
    """Damaged checkpoints are a finding. Guards against somebody who only looks at `status` and never hears of them."""
    newest = Log(saved.store).tail().state.checkpoints[-1].prefix
    led(saved, nobody, damaged=(newest,))
    result = holdfast("status", saved.path)
    assert result.exit_code == 1
    assert "2 live, 1 DAMAGED; newest ckpt-10." in result.stdout
    assert "BAD  1 of 2 checkpoints damaged" in result.stdout


def test_a_run_before_its_first_save(run_directory: Any, nobody: str, holdfast: Holdfast) -> None:
    """A run with a hint and no log is shown. Guards against an error for a job that has just started."""
    Hint(nobody, (("worker", ("h:1",)),)).write(run_directory.store)
    result = holdfast("status", run_directory.path)
    assert result.exit_code == 0, result.output
    assert "none committed yet" in result.stdout
    assert f"{nobody}, named by _holdfast/coordinator.json: nobody answers at {nobody}" in result.stdout


def test_stock_checkpoints_without_a_log(run_directory: Any, holdfast_json: HoldfastJson) -> None:
    """A directory of TensorFlow's own checkpoints is shown. Guards against an error for a run that was not taken over
    yet."""
    run_directory.store.write("ckpt-7.index", [b"an index"])
    told = holdfast_json("status", run_directory.path)
    assert (told["log"]["entry"], told["log"]["newest"]["step"]) == (None, 7)


def test_an_address_where_nobody_is(nobody: str, holdfast: Holdfast) -> None:
    """An address where nobody listens is an error. Guards against calling it good."""
    result = holdfast("status", nobody)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"holdfast: nobody answers at {nobody}")
    assert len(result.stderr.splitlines()) == 1


def test_an_address_that_is_mute(mute: str, holdfast: Holdfast) -> None:
    """An address that does not answer is an error within a bounded time. Guards against a wait without an end."""
    result = holdfast("status", mute)
    assert result.exit_code == 1
    assert f"a process listens at {mute} but did not answer within" in result.stderr


@pytest.mark.parametrize("address", ["no-such-host.invalid:7070", "127.0.0.1:99999", "[::1]:1"])
def test_addresses_that_lead_nowhere(address: str, holdfast: Holdfast) -> None:
    """A mistyped host gives one sentence. Guards against a traceback of gRPC's."""
    result = holdfast("status", address)
    assert result.exit_code == 1
    assert result.stderr.startswith("holdfast: ")
    assert "Traceback" not in result.stderr


def test_a_directory_with_a_colon_is_a_directory(saved: Any, holdfast_json: HoldfastJson) -> None:
    """A directory with a colon in its name is a directory. Guards against taking the path for an address."""
    moved = saved.path.with_name("run:7")
    saved.path.rename(moved)
    assert holdfast_json("status", moved)["run"] == str(moved)


def test_json_has_every_field_without_a_coordinator(saved: Any, holdfast: Holdfast) -> None:
    """Without a coordinator the JSON has every field. Guards against programs that must guess which fields exist."""
    told = json.loads(holdfast("status", saved.path, "--json").stdout)
    assert set(told) == {
        "run", "log", "coordinator", "generation", "leads", "workers", "activity", "last_save", "forming", "interval",
        "bad",
    }  # fmt: skip
