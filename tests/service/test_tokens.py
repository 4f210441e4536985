"""A coordinator with a --token-file: who shows a token takes part, in the runs that the token is for."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from holdfast_coordinator.tls_files import TlsFiles
from holdfast_coordinator.tokens import Tokens
from holdfast_protos.client import Access, Distrusted, Link, Refusal, Unreachable, ask
from holdfast_protos.settings import CA, TOKEN_FILE, Settings
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.errors import CoordinatorUnavailable, InvalidRequest
from holdfast_storage.layout import KEY
from holdfast_storage.run_key import ensure_key
from holdfast_storage.store import Store, open_store
from support.certificates import Authority, put
from support.coordinators import Coordinator, StartCoordinator
from support.light_worker import LightWorker, World, all_join, outcomes
from support.passing_time import PassingTime
from support.relay import relay

GOOD, NEW, OTHER = "good-" * 4, "new--" * 4, "other" * 4


class Gate:
    """A coordinator with tokens and a certificate, and the token of a worker."""

    def __init__(self, folder: Path, start: StartCoordinator, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        authority = Authority()
        self._list, self._token = folder / "tokens", folder / "token"
        self.admit(f"{store.url} {GOOD}")
        self.tokens = Tokens(str(self._list))
        self.coordinator: Coordinator = start(
            tls=TlsFiles(*authority.signed().write(folder, "server")), tokens=self.tokens
        )
        self.settings = Settings(put(folder / "ca.pem", authority.pem), token_file=self.give(GOOD))
        monkeypatch.setenv(CA, self.settings.ca)
        monkeypatch.setenv(TOKEN_FILE, self.settings.token_file)

    def admit(self, *lines: str) -> None:
        put(self._list, "# PREFIX TOKEN\n\n" + "\n".join(lines) + "\n")

    def give(self, token: str) -> str:
        return put(self._token, f"{token}\n")


@pytest.fixture
def gate(tmp_path: Path, start: StartCoordinator, store: Store, monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(tmp_path / "gate", start, store, monkeypatch)


def no_key() -> bytes:
    raise AssertionError("the run's key is not needed")


def refused(worker: LightWorker) -> None:
    """It is refused at once, and told what to check."""
    with pytest.raises(InvalidRequest, match=f"does not accept our token: .* Check the file that {TOKEN_FILE} names"):
        worker.join()


def test_a_token_is_enough(gate: Gate, store: Store, world: World) -> None:
    """Workers that believe an authority and show a token save, and nobody needs the run's key. Guards against two
    secrets where one was handed out."""
    workers = world(2, gate.coordinator)
    all_join(workers)
    with pytest.raises(FileNotFoundError):
        store.read(KEY)
    assert outcomes([worker.save(1) for worker in workers]) == [None, None]


def test_a_coordinator_without_an_authority_proves_itself_first(
    gate: Gate, store: Store, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an authority, a worker shows its token once the coordinator has proven that it reads the run's key, and
    not before. Guards against a token that is told to whoever listens."""
    settings = Settings(token_file="/nowhere")
    ensure_key(store)
    with pytest.raises(Unreachable, match="does not prove that it reads the key"):
        Link(gate.coordinator.address, Access(store.url, lambda: b"another key", b"secret", settings))
    with pytest.raises(Distrusted, match="/nowhere cannot be read"):
        Link(gate.coordinator.address, Access(store.url, lambda: ensure_key(store), b"secret", settings))
    monkeypatch.delenv(CA)
    all_join(world(2, gate.coordinator))


@pytest.mark.parametrize(
    ("prefix", "admitted"),
    [
        ("{run}", True),
        ("{above}", True),
        ("{above}/", True),
        ("*", True),
        ("{run}/", True),
        ("{run}-2", False),
        ("{run}/below", False),
        ("{above}/r", False),
        ("/elsewhere", False),
        ("s3://bucket/run", False),
    ],
)
def test_a_token_is_for_what_is_at_its_prefix_and_below(
    gate: Gate, store: Store, world: World, prefix: str, admitted: bool
) -> None:
    """A token admits to the run at its prefix and to those below. Guards against a prefix of the name that is none of
    the path, and against one run's token that opens another."""
    gate.admit(f"{prefix.format(run=store.url, above=os.path.dirname(store.url))} {GOOD}", f"/other {OTHER}")
    (worker,) = world(1, gate.coordinator)
    if admitted:
        worker.join()
    else:
        refused(worker)


def test_another_way_to_the_same_run_is_the_same_run(gate: Gate, store: Store, tmp_path: Path, world: World) -> None:
    """What counts is where a path leads. Guards against a link, or dots, below one's own prefix that lead into somebody
    else's run."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "link").symlink_to(store.url)
    gate.admit(f"{own} {GOOD}")
    for path in (f"{own}/link", f"{own}/../run"):
        access = Access(path, no_key, b"secret", gate.settings)
        with closing(Link(gate.coordinator.address, access)) as link, pytest.raises(Distrusted, match="for other runs"):
            link.join(pb.JoinRequest(), 10.0)


def test_no_token_is_refused_at_once(gate: Gate, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without a token is told which variable to set. Guards against ten minutes of trying."""
    monkeypatch.delenv(TOKEN_FILE)
    (worker,) = world(1, gate.coordinator)
    with pytest.raises(InvalidRequest, match=f"wants a token: set {TOKEN_FILE} to the path of a file that holds it"):
        worker.join()


@pytest.mark.parametrize("token", [OTHER, GOOD[:-1], f"{GOOD}x", "x"])
def test_a_wrong_token_is_refused_at_once(gate: Gate, world: World, token: str) -> None:
    """Another run's token, and one that is nearly right, are refused. Guards against a comparison of beginnings."""
    gate.admit(f"/other {OTHER}", f"/yet/another {GOOD}")
    gate.give(token)
    (worker,) = world(1, gate.coordinator)
    refused(worker)


def test_the_proof_of_the_key_is_no_token(gate: Gate, store: Store) -> None:
    """Who reads the directory may ask for the status, and do nothing else. Guards against a second door beside the one
    with tokens, and against a takeover because nobody can ask who leads."""
    ensure_key(store)
    reader = Access(store.url, lambda: ensure_key(store))
    with closing(Link(gate.coordinator.address, reader)) as link:
        with pytest.raises(Refusal, match="has called here"):
            link.status(pb.StatusRequest(run=store.url), 10.0)
        with pytest.raises(Unreachable, match="UNAUTHENTICATED: the token is not one of those"):
            link.join(pb.JoinRequest(), 10.0)


def test_all_runs_are_listed_for_a_token_for_all(gate: Gate, store: Store, world: World) -> None:
    """Only a token for * lists all runs. Guards against one run's workers that learn of the others."""
    all_join(world(1, gate.coordinator))
    everything = Access("", no_key, settings=gate.settings)
    with pytest.raises(Distrusted, match="only a token for"):
        ask(gate.coordinator.address, everything)
    gate.admit(f"* {GOOD}")
    assert list(ask(gate.coordinator.address, everything).runs) == [store.url]


# -- tokens that are replaced --


def test_a_job_goes_on_while_its_token_is_replaced(gate: Gate, store: Store, world: World) -> None:
    """The new token is added, given to the workers, and the old one removed: all saves are committed, whether or not
    connections break meanwhile. Guards against a worker that goes on with the token that it was started with."""
    with relay(gate.coordinator.address) as way:
        workers = world(2, way.address)
        all_join(workers)
        steps = [
            lambda: gate.admit(f"{store.url} {GOOD}", f"{store.url} {NEW}"),
            lambda: gate.give(NEW),
            lambda: gate.admit(f"{store.url} {NEW}"),
        ]
        for number, step in enumerate(steps, 1):
            step()
            for cut in (False, True):
                if cut:
                    way.cut()
                saves = [worker.save(10 * number + cut) for worker in workers]
                assert outcomes(saves) == [None, None]


def test_a_job_waits_for_its_new_token(
    gate: Gate, store: Store, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A save of a job whose token was removed too early waits, says why in the log, and is committed once the worker
    has the new one. Guards against a mistake of a minute that ends a job of weeks."""
    (worker,) = world(1, gate.coordinator)
    worker.join()
    gate.admit(f"{store.url} {NEW}")
    save = worker.save(1)
    while "does not accept our token" not in caplog.text:
        assert not save.wait(0.01)
    gate.give(NEW)
    assert outcomes([save]) == [None]


def test_a_token_that_was_removed_is_of_no_use(gate: Gate, store: Store, world: World, passing: PassingTime) -> None:
    """Removing a token ends what its holders can do. Guards against a token that is good for as long as the process
    lives."""
    (worker,) = world(1, gate.coordinator)
    worker.join()
    gate.admit(f"{store.url} {NEW}")
    save = worker.save(1)
    passing.until(lambda: save.wait(0.0))
    (error,) = outcomes([save])
    assert isinstance(error, CoordinatorUnavailable)
    assert "the token is not one of those in the coordinator's --token-file" in str(error)


def test_a_list_that_cannot_be_used_changes_nothing(
    gate: Gate, store: Store, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """While the list of tokens cannot be used, the last one holds, and the log says so once. Guards against a typing
    error that shuts everybody out, or lets everybody in."""
    gate.admit(f"{store.url} {GOOD}", "short x")
    for _ in range(2):
        assert gate.tokens.prefixes(GOOD.encode()) == [store.url]
        assert gate.tokens.prefixes(b"x") == []
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    gate.admit(f"{store.url} {NEW}")
    assert gate.tokens.prefixes(GOOD.encode()) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("one-word-of-sixteen", "line 2 has one word. A line is PREFIX TOKEN"),
        ("/runs short", "line 2 has a token of 5 characters: 16 are the fewest"),
        ("s3:// sixteen-characters", "line 2 names no run directory and no folder"),
        ("/runs/\udcff sixteen-characters", "line 2 names no run directory and no folder"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, why: str) -> None:
    """A wrong line is told by its number, and never shown: it may hold a token. Guards against a token in a log."""
    path = put(tmp_path / "tokens", b"# tokens\n" + line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(InvalidRequest, match=why) as raised:
        Tokens(path)
    assert str(raised.value).startswith(path)
    assert line.rsplit(maxsplit=1)[-1] not in str(raised.value)


def test_a_list_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """As ssh does with keys. Guards against tokens that everybody on the machine has."""
    path = Path(put(tmp_path / "tokens", f"* {GOOD}\n"))
    path.chmod(0o640)
    with pytest.raises(InvalidRequest, match=f"{path} can be read by others .mode 0640.: chmod 600 {path}"):
        Tokens(str(path))


def test_paths_with_spaces(tmp_path: Path) -> None:
    """A prefix may have spaces, since the token is the last word. Guards against a run that no token can name."""
    store = open_store(tmp_path / "my run")
    assert Tokens(put(tmp_path / "t", f"{store.url}  {GOOD}  \n")).prefixes(GOOD.encode()) == [store.url]
