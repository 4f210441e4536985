"""The findings of `holdfast status`: read from the log, asked of the coordinator, and judged."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator

from holdfast.cli.output import count, human_duration, human_size
from holdfast.cli.target import no_run, open_directory
from holdfast.session.hint import read_hint
from holdfast_coordinator.status import log_status
from holdfast_protos.client import PATIENCE, Access, Refusal, Unreachable, ask, is_listening, is_of_another_host
from holdfast_protos.settings import CA, TOKEN_FILE, Settings
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.errors import CoordinatorUnavailable, HoldfastError, InvalidRequest
from holdfast_storage.layout import HINT, KEY
from holdfast_storage.log.log import Log
from holdfast_storage.records import LogState
from holdfast_storage.run_directory import read_run
from holdfast_storage.run_key import read_key
from holdfast_storage.store import Store

UNJOINED_FOR = 60.0
"""Seconds after which it is a finding that a worker has not joined while others wait for it."""

_NAMED = "HOLDFAST_COORDINATOR"

OVERDUE_FOR = 5.0
"""Seconds for which a save may outlast its deadline: the coordinator checks its clock only now and then."""


def of_coordinator(address: str) -> tuple[str, list[pb.RunStatus]]:
    """Return the id of the coordinator at HOST:PORT, and all its runs. CoordinatorUnavailable if none answers."""
    try:
        settings = _settings()
        listed = ask(address, Access("", _keyless, settings=settings), anybody=True)
        runs = [ask(address, Access(url, _keyless, settings=settings), anybody=True).run for url in listed.runs]
    except Refusal as error:
        raise CoordinatorUnavailable(str(error)) from None
    except Unreachable as error:
        raise CoordinatorUnavailable(_in_words(address, error)[0]) from None
    for run in runs:
        run.coordinator.address = address
        run.bad.extend(_bad(run))
    return listed.coordinator, runs


def of_run(target: str) -> pb.RunStatus:
    """Return the status of one run, given its directory. Raises InvalidRequest if there is none."""
    store = open_directory(target)
    entry = Log(store).tail()
    state = entry.state if entry else read_run(store)
    hint = read_hint(store)
    places = list(places_of(state, hint.address if hint else ""))
    if state is None and not places:
        raise no_run(store)
    asked: list[pb.CoordinatorStatus.Asked] = []
    found: list[pb.RunStatus] = []
    for source, address, host in places:
        access = access_to(store, source)
        told, answer, hangs = _ask(address, host, access, state.run_id if state else "")
        asked.append(pb.CoordinatorStatus.Asked(address=address, from_=source, answer=answer, hangs=hangs))
        if told:
            told.coordinator.address = address
            found.append(told)
    # Two coordinators may know the run: one that has lost it, and its successor.
    found.sort(key=lambda run: (not run.leads, not any(worker.alive for worker in run.workers)))
    run = found[0] if found else pb.RunStatus()
    run.run = store.url
    run.coordinator.asked.extend(asked)
    run.ClearField("log")
    if state:
        run.log.CopyFrom(log_status(state, entry.number if entry else -1))
    run.bad.extend(_bad(run))
    return run


def places_of(state: LogState | None, hinted: str) -> Iterator[tuple[str, str, str]]:
    """Yield possible addresses of a coordinator: who names it, the address, and its host if that is known."""
    leader = state.leader if state else None
    places = [
        (_NAMED, os.environ.get(_NAMED, ""), ""),
        (HINT, hinted, leader.host if leader and leader.address == hinted else ""),
        ("the log", leader.address if leader else "", leader.host if leader else ""),
    ]
    seen = {""}
    for source, address, host in places:
        if address not in seen:
            seen.add(address)
            yield source, address, host


def access_to(store: Store, source: str) -> Access:
    """Return what is shown to a coordinator that `source` names."""
    settings = _settings()
    ours = settings if source == _NAMED else settings.for_anybody()
    return Access(store.url, lambda: _key(store), settings=ours)


def _ask(address: str, host: str, access: Access, run_id: str) -> tuple[pb.RunStatus | None, str, bool]:
    """Ask at an address. Return the status if it is this run's, the answer in words, and whether it hangs."""
    if host and is_of_another_host(address, host):
        return None, f"it can be asked only on {host}", False
    try:
        reply = ask(address, access, anybody=True)
    except Refusal as error:
        return None, f"the coordinator there does not serve the run ({error})", False
    except Unreachable as error:
        return None, *_in_words(address, error)
    if run_id and reply.run_id and reply.run_id != run_id:
        return None, "the coordinator there serves another run at this path", False
    return reply.run, "answers", False


def _settings() -> Settings:
    try:
        return Settings.of()
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def _key(store: Store) -> bytes:
    try:
        key = read_key(store)
    except HoldfastError as error:
        raise Unreachable(f"the run's key cannot be read: {error}") from None
    if key is None:
        raise Unreachable(f"the run has no {KEY}: it was deleted, or no job of this version has joined")
    return key


def _keyless() -> bytes:
    raise InvalidRequest(
        "a coordinator tells of a run only who can read it: give the run directory instead of HOST:PORT, or set "
        f"{CA} and {TOKEN_FILE} for a coordinator with tokens"
    )


def _in_words(address: str, error: Unreachable) -> tuple[str, bool]:
    """Return what is known of an address that does not answer, in words, and whether a process there hangs."""
    # gRPC lists every address that it tried, and the end says why.
    why = textwrap.shorten(error.details.rpartition(": ")[2], 100, placeholder="...")
    match error.code:
        case "":
            return str(error), False
        case "DEADLINE_EXCEEDED" if is_listening(address, PATIENCE):
            held = f"a process listens at {address} but did not answer within {PATIENCE:.0f} s: it is stopped, or hangs"
            return held, True
        case "DEADLINE_EXCEEDED":
            return f"nobody answered at {address} within {PATIENCE:.0f} s", False
        case "UNAVAILABLE":
            return f"nobody answers at {address} ({why})", False
        case code:
            return f"what answers at {address} is not a coordinator ({code}: {why})", False


def _bad(run: pb.RunStatus) -> Iterator[str]:
    """Yield what an operator should act on."""
    for place in run.coordinator.asked:
        if place.hangs:
            yield f"{place.answer} (named by {place.from_})"
    yield from filter(None, (_bad_worker(worker, run.activity) for worker in run.workers))
    forming, activity, log = run.forming, run.activity, run.log
    if forming.missing and forming.seconds >= UNJOINED_FOR:
        missing, joined = ", ".join(forming.missing), ", ".join(forming.joined)
        yield f"{missing} did not join within {human_duration(forming.seconds)}; there so far: {joined}"
    if activity.seconds_left < -OVERDUE_FOR:
        yield f"the {activity.kind} should have ended {human_duration(-activity.seconds_left)} ago: {activity.reason}"
    if run.last_save.HasField("failure"):
        yield f"the last save failed: {run.last_save.failure.message}"
    if log.damaged:
        yield f"{log.damaged} of {count(log.live, 'checkpoint')} damaged: `holdfast ls` shows which"


def _bad_worker(worker: pb.WorkerStatus, activity: pb.Activity) -> str:
    """Return in a sentence what is wrong with a worker; empty if nothing is."""
    name, phase = worker.worker, worker.phase or "join"
    ago = "was never heard from"
    if worker.HasField("seconds_since_heard"):
        ago = f"was last heard from {human_duration(worker.seconds_since_heard)} ago, in phase {phase}"
    match worker.standing:
        case "lost":
            return f"{name} is lost: its connection is gone, and it {ago}"
        case "silent":
            return f"{name} hangs: it has a connection and {ago}; it is stopped, or its host is"
        case "stuck":
            # Training reports no progress, so the time counts from when others began to wait.
            still = human_duration(min(worker.seconds_since_progress, activity.seconds))
            total = f" of {human_size(worker.bytes_total)}" if worker.bytes_total else ""
            done = f" at {human_size(worker.bytes_done)}{total}" if worker.bytes_done or total else ""
            return (
                f"{name} hangs: the {activity.kind} waits for it, and it has made no progress for {still}, in phase "
                f"{phase}{done}"
            )
        case _:
            return ""
