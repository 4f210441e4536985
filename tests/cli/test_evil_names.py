"""Every command, over what others filled with escape sequences, forged lines and markup."""

from __future__ import annotations

import json
import os
import pty
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import holdfast.cli
import holdfast_protos.client
from holdfast.cli import main, run_status
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.bundle.crc import crc32c
from holdfast_storage.checkpoint.manifest import read_manifest
from holdfast_storage.checkpoint.verify import verify_checkpoint
from holdfast_storage.errors import HoldfastError
from holdfast_storage.run_directory import read_run
from support.evil import EVIL, faults

NAME = EVIL.replace("/", "|")
RUN = NAME.replace("[", "(").replace("]", ")")  # brackets are refused there
COMMANDS = [("ls",), ("show",), ("verify",), ("status",), *((c, "--json") for c in ("ls", "show", "verify", "status"))]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdfast_protos.client, "PATIENCE", 0.1)
    monkeypatch.delenv("HOLDFAST_COORDINATOR", raising=False)


def said(*arguments: object) -> str:
    """What a command prints on a terminal that takes colours: click removes escape sequences for all others."""
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="holdfast", color=True).output


def forge(path: Path, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Change the fields of a log entry or a manifest, and return the new bytes."""
    data = path.read_bytes()
    if path.name == "manifest.json":
        fields = json.loads(data)
        change(fields)
        data = json.dumps(fields, indent=1).encode() + b"\n"
    else:
        fields = json.loads(data)["entry"]
        change(fields)
        inner = json.dumps(fields, separators=(",", ":")).encode()
        data = b'{"crc32c":"%08x","entry":%s}\n' % (crc32c(inner), inner)
    path.write_bytes(data)
    return data


def entry(saved: Any, **changes: object) -> None:
    forge(saved.path / "_holdfast/log/000000000000.json", lambda fields: fields.update(changes))


def manifest(saved: Any, **changes: object) -> None:
    """Also in the log, which has the manifest's checksum."""
    (path,) = saved.path.glob("ckpt-20.*/manifest.json")
    data = forge(path, lambda fields: fields.update(changes))
    entry_path = saved.path / "_holdfast/log/000000000000.json"
    forge(entry_path, lambda fields: fields["checkpoints"][-1].update(manifest_crc32c=crc32c(data)))


LEADER = {"id": EVIL, "address": EVIL, "host": EVIL}
BRIDGES = [("export", EVIL, f"{EVIL}.keras"), ("export", "a", EVIL), ("import", f"{EVIL}.keras", "a")]
FORGERIES: dict[str, Callable[[Any], object]] = {
    "strategy": lambda run: manifest(run, strategy=EVIL),
    "git commit": lambda run: manifest(run, git_commit=EVIL),
    "versions": lambda run: manifest(run, versions={EVIL: EVIL}),
    "metadata": lambda run: manifest(run, metadata={EVIL: {EVIL: [EVIL]}}),
    "metrics": lambda run: manifest(run, metrics={EVIL: 1.0}),
    "world": lambda run: manifest(run, world=[f"{EVIL}-0"]),
    "local keys": lambda run: manifest(run, local_keys=[EVIL]),
    "prefix in the manifest": lambda run: manifest(run, prefix=f"{NAME}/{NAME}"),
    "objects": lambda run: manifest(run, objects=[{"name": NAME, "size": 1, "crc32c": 1, "role": EVIL, "task": None}]),
    "kind": lambda run: entry(run, kind=EVIL),
    "note": lambda run: entry(run, note=EVIL),
    "format": lambda run: entry(run, format=EVIL),
    "run id": lambda run: entry(run, run_id=EVIL),
    "leader": lambda run: entry(run, leader=LEADER),
    "generation": lambda run: entry(run, generation={"id": EVIL, "members": {f"{EVIL}-0": EVIL}}, leader=LEADER),
    "checkpoints": lambda run: entry(run, checkpoints=[{"prefix": f"{NAME}/x", "step": 1, "time": 1.0}]),
    "damaged": lambda run: entry(run, damaged=[EVIL]),
    "hint": lambda run: (run.path / "_holdfast/coordinator.json").write_text(
        json.dumps({"address": f"{EVIL}:1", "cluster": {EVIL: [EVIL]}})
    ),
    "folder": lambda run: (run.path / NAME).mkdir(),
    "run": lambda run: setattr(run, "path", run.path.rename(run.path.parent / RUN)),
    "log entry": lambda run: (run.path / "_holdfast/log" / f"{NAME}.json").write_text("x"),
    "state file": lambda run: [
        (run.path / "checkpoint").write_text(f'model_checkpoint_path: "{NAME}"'),
        (run.path / "_holdfast/log/000000000000.json").unlink(),
    ],
}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("forgery", FORGERIES)
def test_whatever_others_wrote(saved: Any, forgery: str, command: tuple[str, ...]) -> None:
    """Whatever stands in a run directory, a command prints visible characters and no line that others wrote. Guards
    against a checkpoint that takes over the terminal of whoever looks at it."""
    FORGERIES[forgery](saved)
    told = said(*command, saved.path)
    assert told
    assert not faults(told)
    if "--json" in command and told.startswith("{"):
        json.loads(told)


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_whatever_others_wrote_is_compared(saved: Any, forgery: str, as_json: list[str]) -> None:
    """Nor do `diff`, `cp` and `gc` print anything else. Guards against columns and paths of their own."""
    FORGERIES[forgery](saved)
    commands: list[tuple[object, ...]] = [
        ("diff", f"{saved.path}@10", f"{saved.path}@20", *as_json),
        ("cp", saved.path, f"{saved.path}2"),
        ("gc", saved.path, "--dry-run", *as_json),
    ]
    for arguments in commands:
        told = said(*arguments)
        assert told
        assert not faults(told)


@pytest.mark.parametrize("forgery", FORGERIES)
def test_tracebacks(saved: Any, forgery: str) -> None:
    """Nor does the traceback of an error about it, which a training program prints. Guards against a cause that repeats
    what it read."""
    FORGERIES[forgery](saved)
    try:
        state = read_run(saved.store)
        for record in state.checkpoints if state else ():
            verify_checkpoint(saved.store, record).raise_if_bad()
            read_manifest(saved.store, record)
        told = ""
    except HoldfastError as error:
        told = "".join(traceback.format_exception(error))
    assert not faults(told)


def test_markup_is_text(saved: Any) -> None:
    """Rich's markup in a name is text. Guards against a link, or a name whose brackets vanish."""
    manifest(saved, strategy=EVIL)
    assert "[red]x[/red][link=http://a]b[/link]:smile:" in said("show", saved.path).replace("\n", "")


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("target", ["127.0.0.1:7", "run"])
def test_whatever_a_coordinator_says(
    saved: Any, monkeypatch: pytest.MonkeyPatch, target: str, as_json: list[str]
) -> None:
    """Whatever a coordinator answers, `status` prints visible characters. Guards against a worker, or a coordinator at
    an address that others wrote, that takes over an operator's terminal."""
    fill(reply := pb.StatusReply())
    reply.run_id = "run-id"
    monkeypatch.setattr(run_status, "ask", lambda address, access, anybody: reply)
    monkeypatch.setenv("HOLDFAST_COORDINATOR", "127.0.0.1:7")
    told = said("status", saved.path if target == "run" else target, *as_json)
    assert "OWNED" in told
    assert not faults(told)


def fill(message: Any) -> None:
    """Set every text of a message, at any depth."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None:
            fill(value.add() if hasattr(value, "add") else value)
        elif field.type == field.TYPE_STRING:
            if hasattr(value, "append"):
                value.append(EVIL)
            else:
                setattr(message, field.name, EVIL)


@pytest.mark.parametrize(
    "arguments",
    [
        ("ls", EVIL),
        ("ls", f"s3://{EVIL}"),
        ("ls", "a", EVIL),
        (EVIL,),
        ("status", f"{EVIL}:1"),
        ("doctor", EVIL),
        ("diff", EVIL, "a"),
        ("cp", EVIL, "a"),
        *BRIDGES,
    ],
)
def test_an_argument_is_repeated_as_text(arguments: tuple[str, ...]) -> None:
    """An argument in an error is visible. Guards against names of files that a shell's pattern found."""
    assert not faults(said(*arguments))


@pytest.mark.processes
def test_on_a_terminal(saved: Any) -> None:
    """On a real terminal, nothing of what others wrote is obeyed. Guards against libraries that print differently
    there, and a progress bar with a name in it."""
    FORGERIES["run"](saved)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "holdfast.cli", "verify", str(saved.path)])
    told = b""
    while True:
        try:
            told += os.read(terminal, 65536)
        except OSError:
            break
    os.waitpid(pid, 0)
    assert b"2 checkpoints of" in told
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told.decode().replace("\r", "").replace("\x1b[2K", ""))  # the bar's
    assert "OWNED\x07" not in told.decode()
    assert not faults(shown)


def test_every_command_prints_by_one_module() -> None:
    """Commands print by `output` alone. Guards against a command that shows names as they are."""
    for path in Path(str(holdfast.cli.__file__)).parent.glob("*.py"):
        printed = re.findall(r"(?:\bprint|console|click\.echo|stdout\.write)\(.*", path.read_text())
        printed = [each for each in printed if "table(" not in each]
        allowed = {"output.py": 2, "__init__.py": 1}
        assert len(printed) <= allowed.get(path.name, 0), f"{path}: {printed}"
