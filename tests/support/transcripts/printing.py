"""How a transcript shows what the state machine is told and what it wants: every field that is not as usual, in a form
that changes only when what is shown does.

A scenario chooses the ids of generations and processes, so they read as its names do. Times are seconds since its
beginning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import MISSING, astuple, fields
from itertools import groupby
from typing import Any

from holdfast_coordinator.core import effects as fx
from holdfast_coordinator.core import events as ev
from holdfast_coordinator.core import messages as v
from holdfast_coordinator.core.machine import Machine
from holdfast_coordinator.core.rules import Best, Every, EverySteps, NewerThan, Newest
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.cluster import Task, names
from holdfast_storage.decision import Decision
from holdfast_storage.failure import Failure
from holdfast_storage.records import CheckpointRecord, Entry, Generation, Leader, Lease, LogState, Past, Pin, Tag
from support.cluster import WALL, Storage


class Printer:
    """Shows what happens in one scenario. `calls` are the names of its requests."""

    def __init__(self, storage: Storage) -> None:
        self.calls: dict[v.RequestId, str] = {}
        self._storage = storage

    # -- effects --

    def effects(self, effects: Iterable[fx.Effect]) -> list[str]:
        """A line for each; for several calls that are answered alike, one after the other, one together."""
        lines = []
        for (kind, answer), together in groupby(map(self._told, effects), key=lambda told: told[:2]):
            named = [call for _, _, call in together if call]
            lines += [f"  {kind} {', '.join(named)}: {answer}"] if named else [f"  {kind}{answer and ' '}{answer}"]
        return lines

    def _told(self, effect: fx.Effect) -> tuple[str, str, str]:
        """What it is, what it says, and to which call."""
        kind = type(effect).__name__
        match effect:
            case fx.Reply(request, answer):
                return kind, self.answer(answer), self.calls[request]
            case fx.Refuse(request, failure):
                return kind, self.answer(failure), self.calls[request]
            case fx.Post(caller, int(number)):
                return kind, f"prepare {number}", caller_name(caller)
            case fx.Post(caller, Decision() as decision):
                return kind, self.decision(decision), caller_name(caller)
            case fx.AskToRead(caller, record, objects):
                return kind, f"{_name(record.prefix)} {_value('', objects)}", caller_name(caller)
            case fx.Notify(caller, failure, ordinal):
                about = "for good" if ordinal is None else f"of save {ordinal}"
                return kind, f"{about}: {self.answer(failure)}", caller_name(caller)
            case _:
                return kind, self._wanted(effect), ""

    def _wanted(self, effect: fx.Effect) -> str:
        match effect:
            case fx.Append(entry):
                return self.entry(entry)
            case fx.WriteStateFile(number, state):
                return f"{number}{self._changes(self._storage.entries[number].state, state)}"
            case fx.Finalize():
                usual = v.SaveReport(effect.step, effect.checkpoint_name, (), None)
                reports = ", ".join(f"{task}{_changed(usual, report)}" for task, report in effect.reports)
                what = f"{effect.checkpoint_name}-{effect.step}.{effect.generation.id}.{effect.ordinal}"
                on = f" on {_name(effect.base.prefix)}" if effect.base else ""
                return f"{what}{on} of {reports}"
            case fx.ReadBackCheckpoint(record, since) | fx.ListObjects(record, since):
                return f"{_name(record.prefix)} since={since:+g}"
            case fx.ReadObjects(record, objects, since):
                return f"{_name(record.prefix)} {_value('', objects)} since={since:+g}"
            case fx.FindOrphans(entry):
                return str(entry.number)
            case fx.Remark(text):
                return text
            case fx.CreateDecision(generation, decision):
                return f"{generation} {self.decision(decision)}"
            case _:
                return _fields(effect).strip()

    # -- results --

    def event(self, event: ev.Event) -> str:
        kind = type(event).__name__
        match event:
            case ev.LogRead(entry, failure=failure):
                found = f"{entry.number}" if entry else "no log"
                return f"{kind} {self.answer(failure) if failure else found}"
            case ev.Appended(entry, taken_by):
                by = f" taken_by={taken_by.write_id}" if taken_by else ""
                return f"{kind} {entry.number} {entry.write_id}{by}{_fields(event, 'entry', 'taken_by')}"
            case ev.Finalized(failure=None):
                return f"{kind} {_name(event.prefix)}"
            case ev.Finalized(generation, ordinal, failure=failure):
                return f"{kind} {generation}.{ordinal} {self.answer(failure)}"
            case ev.Examined(caller, prefix, good, verdict, reason):
                told = f" {reason!r}" if reason else ""
                return f"{kind} {caller_name(caller)} {_name(prefix)} {verdict} good={_value('', good)}{told}"
            case ev.Listed(prefix, verdict):
                return f"{kind} {_name(prefix)} {verdict}"
            case ev.Decided(generation, decision):
                return f"{kind} {generation} {self.decision(decision) if decision else 'not known'}"
            case ev.StateFileWritten(number, newest):
                return f"{kind} {number} newest={_name(newest) or 'none'}"
            case _:
                return f"{kind}{_fields(event)}"

    # -- values --

    def answer(self, answer: v.Answer | Failure | None) -> str:
        match answer:
            case Failure():
                return f"{answer.kind.value}{_fields(answer, 'kind', 'message')}: {answer.message}"
            case v.Agreed(decision):
                return f"Agreed {self.decision(decision)}"
            case v.SaveOutcome(ordinal, committed, failure):
                assert committed == (failure is None)
                return f"Outcome {ordinal} {'committed' if failure is None else self.answer(failure)}"
            case _:
                return f"{type(answer).__name__}{_fields(answer)}"

    def decision(self, decision: Decision) -> str:
        return f"{decision.number} {decision.verb}{_fields(decision, 'number', 'verb')}"

    def status(self, told: pb.StatusReply) -> str:
        """What `test_status` does not look at."""
        run, save = told.run, told.run.last_save
        world = f"generation={run.generation} leads={run.leads}"
        last = f"(ordinal={save.ordinal} committed={save.committed})"
        return f"Status {world} reason={told.reason!r} last_save={last} entry={run.log.entry}"

    def entry(self, entry: Entry) -> str:
        before = self._storage.entries[entry.number - 1].state if entry.number else self._storage._imported
        note = f" {entry.note!r}" if entry.note else ""
        return (
            f"{entry.number} {entry.kind} {entry.write_id} time={_time(entry.time)}{note}"
            f"{self._changes(before, entry.state)}"
        )

    def _changes(self, before: LogState, after: LogState) -> str:
        """What is not in the state any more as it was."""
        changes = []
        for field in fields(LogState):
            value = getattr(after, field.name)
            if value == getattr(before, field.name):
                continue
            if field.name == "checkpoints":
                value = [_name(c.prefix) if c in before.checkpoints else _checkpoint(c) for c in after.checkpoints]
                changes.append(f"checkpoints=[{', '.join(value)}]")
            else:
                changes.append(f"{field.name}={_value(field.name, value)}")
        return "".join(f" {change}" for change in ["|", *changes]) if changes else ""

    # -- what is looked at --

    def log(self) -> list[str]:
        storage, state = self._storage, self._storage.state
        live = [_checkpoint(c) for c in state.checkpoints]
        lines = ["  log: " + (", ".join(f"{e.number} {e.kind} {e.write_id}" for e in storage.entries) or "none")]
        lines.append(f"  live: {', '.join(live) or 'none'}")
        lines.append(f"  folders: {', '.join(sorted(storage.folders)) or 'none'}")
        return lines + [
            f"  {name}: {_value(name, value)}" for name in ("retired", "damaged") if (value := getattr(state, name))
        ]

    def machine(self, machine: Machine) -> list[str]:
        busy = ", busy" if machine.busy else ""
        lines = [f"  at entry {machine.ledger.number}, leads with {machine.leading or 'none'}{busy}"]
        for name, world in machine.worlds.items():
            attempt = f"save {world.attempt.ordinal} {world.attempt.phase.name}" if world.attempt else "no save"
            fenced = f", fenced: {world.fenced.message}" if world.fenced else ""
            lines.append(f"  {name}: {attempt}, committed {world.committed}{fenced}")
        if machine.forming:
            lines.append(f"  forming: waits for {names(machine.forming.missing)}")
        return lines


def caller_name(caller: v.Caller) -> str:
    return f"{caller.generation.lstrip('0')}{caller.task.index}"


def _fields(value: Any, *without: str) -> str:
    """The fields that are not as they are by default."""
    shown = []
    for field in fields(value):
        usual = field.default if field.default_factory is MISSING else field.default_factory()
        content = getattr(value, field.name)
        if field.name not in without and content != usual:
            shown.append(f" {field.name}={_value(field.name, content)}")
    return "".join(shown)


def _changed(usual: Any, value: Any) -> str:
    """The fields that are not as in another one of the kind."""
    names = [field.name for field in fields(value) if field.name != "payload"]
    shown = [name for name in names if getattr(value, name) != getattr(usual, name)]
    return "".join(f" {name}={_value(name, getattr(value, name))}" for name in shown)


def _value(name: str, value: Any) -> str:  # noqa: PLR0912
    match value:
        case CheckpointRecord():
            return _name(value.prefix)
        case Generation(id_, members):
            return f"{id_}({_value('members', members)})"
        case Leader(id_):
            return id_
        case Task():
            return str(value)
        case Pin():
            return _name(value.prefix)
        case Tag():
            return f"{value.name}={_name(value.prefix)}"
        case Lease():
            return f"{_name(value.prefix)} by {value.reader} for {value.seconds:g} s"
        case Newest() | Best() | NewerThan() | Every() | EverySteps():
            return f"{type(value).__name__}({', '.join(map(str, astuple(value)))})"
        case Past(generations, seconds):
            return f"{generations} in {seconds:g} s"
        case Failure():
            return f"({value.kind.value}{_fields(value, 'kind', 'message')}: {value.message})"
        case v.SaveOutcome() | v.Divergence():
            return f"({type(value).__name__}{_fields(value)})"
        case tuple() if name == "members":
            return ",".join(f"{task}:{incarnation}" for task, incarnation in value)
        case tuple() | list():
            return f"[{', '.join(_value('', each) for each in value)}]"
        case str() if name in ("fork_point", "prefix", "newest", "folder") or re.fullmatch(r"ckpt-\S+/ckpt-\d+", value):
            return _name(value) or "none"
        case str():
            return value if re.fullmatch(r"[\w.:-]+", value) else repr(value)
        case float() if name in ("time", "last_preserved", "led"):
            return _time(value)
        case None | bool() | int() | float():
            return f"{value:g}" if isinstance(value, float) else str(value)
        case _:
            raise AssertionError(f"a transcript cannot show {value!r}")


def _name(prefix: str) -> str:
    """A prefix without what its folder already says; anything else as it is."""
    folder, _, name = prefix.rpartition("/")
    return folder if name and folder.startswith(f"{name}.") else prefix


def _time(wall: float) -> str:
    return f"{wall - WALL:+g}"


def _checkpoint(record: CheckpointRecord) -> str:
    """Everything about a checkpoint. Its step only where its name does not say it."""
    more = [f"time={_time(record.time)}"]
    if not record.prefix.endswith(f"-{record.step}"):
        more.append(f"step={record.step}")
    more += [flag for flag in ("stock", "preserved") if getattr(record, flag)]
    more += [f"on={_name(record.base)}"] if record.base else []
    if not record.stock and not record.manifest_crc32c:
        more.append("no digest")
    return f"{_name(record.prefix)}({' '.join(more)})"
