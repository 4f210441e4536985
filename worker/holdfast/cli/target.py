"""Finds the checkpoints that RUN[@STEP] means, where a tag may stand for a step. Only reads, and never joins a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import click

from holdfast_storage import layout
from holdfast_storage.errors import CheckpointAbsent, InvalidRequest
from holdfast_storage.records import CheckpointRecord, LogState
from holdfast_storage.run_directory import read_run
from holdfast_storage.store import Store, open_store

RUN = click.argument("run", metavar="RUN")
TARGET = click.argument("target", metavar="RUN[@STEP]")


LEASE = 6 * 3600.0
"""Seconds for which retention spares a checkpoint that a command reads at most, if the command is killed."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory as it was when it was opened."""

    store: Store
    state: LogState

    def select(self, step: int | str | None) -> CheckpointRecord:
        """Return the latest live checkpoint of a step, or the one with a tag. Without either, return the newest
        that is not condemned."""
        live = self.state.checkpoints
        if not live:
            raise InvalidRequest(self.state.closed or f"there is no committed checkpoint in {self.store.url}")
        if step is None:
            return (self.state.restorable or live)[-1]
        if isinstance(step, str):
            if named := self.state.tagged(step):
                return named
            tags = ", ".join(sorted(tag.name for tag in self.state.tags)) or "no tags"
            raise InvalidRequest(f"no checkpoint in {self.store.url} is tagged {step}; there are: {tags}")
        found = next((c for c in reversed(live) if c.step == step), None)
        if found is None:
            steps = ", ".join(str(s) for s in sorted({c.step for c in live}))
            raise InvalidRequest(f"there is no checkpoint of step {step} in {self.store.url}; there are: {steps}")
        return found

    def live_now(self) -> set[str]:
        """Return the prefixes that are live now: a running job's retention may have removed others meanwhile."""
        state = read_run(self.store)
        return {record.prefix for record in state.checkpoints} if state else set()


@contextmanager
def reading(run: Run, record: CheckpointRecord, reader: str = "") -> Iterator[None]:
    """A context in which a checkpoint is read: it has a lease, so that a job that trains does not remove it meanwhile.

    reader: the id of the reader, if a command that goes on has one.

    Raises InvalidRequest if such a job has done so nevertheless, which its reader finds as CheckpointAbsent.
    """
    from holdfast.leasing import Leasing
    from holdfast_storage.log.log import Log

    leasing = Leasing(Log(run.store), run.store.url, LEASE, reader)
    leasing.lease(record)  # if it is gone, its reader says so
    try:
        yield
    except CheckpointAbsent as error:
        if record.prefix in run.live_now():
            raise
        raise InvalidRequest(
            f"retention has removed step {record.step} of {run.store.url} meanwhile: choose another, or pin it first"
        ) from error
    finally:
        leasing.release()


def parse_target(text: str) -> tuple[str, int | str | None]:
    """Split RUN[@STEP] or RUN[@TAG]. If a directory's name itself ends so, write a slash after it.

    A tag of what is a whole bucket or host needs a slash before it, `s3://bucket/@production`: in `sftp://user@host`
    and `abfs://container@account` there is none.
    """
    run, at, step = text.rpartition("@")
    if at and run and step.isascii() and step.isdigit():
        return run, int(step)
    if at and run and layout.is_tag(step) and ("://" not in run or "/" in run.partition("://")[2]):
        return run, step
    return text, None


def given(target: str) -> tuple[str, int | str]:
    """Split RUN@STEP, for a command that changes what is there: it takes no default."""
    url, step = parse_target(target)
    if step is None:
        raise InvalidRequest(f"{target} names no checkpoint: give RUN@STEP, such as {target.rstrip('/')}@1000")
    return url, step


def open_run(url: str) -> Run:
    """Read a run directory. Raises InvalidRequest if it does not exist or is not a run directory."""
    store = open_directory(url)
    state = read_run(store)
    if state is None:
        raise no_run(store)
    return Run(store, state)


def open_checkpoint(target: str) -> tuple[Run, CheckpointRecord]:
    """Read the run directory of a RUN[@STEP], and select the checkpoint in it. Raises what the two raise."""
    url, step = parse_target(target)
    run = open_run(url)
    return run, run.select(step)


def no_run(store: Store) -> InvalidRequest:
    return InvalidRequest(f"there is no run in {store.url}: neither a checkpoint nor a log of Holdfast is there")


def open_directory(url: str) -> Store:
    """Open a run directory. Raises InvalidRequest if nothing is there, or something that is clearly no run."""
    store = open_store(url)
    if "://" not in store.url and not os.path.isdir(store.url):
        why = "is a file, not a directory" if os.path.exists(store.url) else "does not exist"
        raise InvalidRequest(f"{store.url} {why}: RUN is the directory that the checkpoints are saved to")
    names = store.list(start=layout.OWN_FOLDER) or store.list()  # a run may have very many folders
    if not names:
        raise InvalidRequest(f"there is no run in {store.url}: nothing is there")
    if layout.MANIFEST in names:
        parent, _, folder = store.url.rpartition("/")
        attempt = layout.parse_folder(folder)
        meant = f"{parent}@{attempt.number}" if attempt else parent
        raise InvalidRequest(f"{store.url} is the folder of one checkpoint; name it as {meant}")
    return store
