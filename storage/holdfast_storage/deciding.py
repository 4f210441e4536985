"""Creates decisions on storage, exclusively, so that there is one for each request, for ever.

Each is an object of its own, `_holdfast/agreed/<generation>/<number>.json`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Container
from contextlib import suppress
from dataclasses import asdict, fields
from typing import Any

from holdfast_storage import spec
from holdfast_storage.decision import CANCEL, FINISH, LONGEST_GRACE, LONGEST_REASON, SAVE, Decision
from holdfast_storage.errors import StorageError
from holdfast_storage.kinds import NUMBER
from holdfast_storage.layout import AGREED_FOLDER, agreed_folder, decision_object
from holdfast_storage.store.base import NotCreated, Store

LARGEST = 64 << 10
"""The most bytes of a decision."""

_DECISION = spec.fields(
    {
        "number": NUMBER,
        "verb": spec.one_of(SAVE, FINISH, CANCEL),
        "boundary": NUMBER,
        "exits": spec.flag,
        "reason": spec.text(LONGEST_REASON),
        "seconds": spec.number(LONGEST_GRACE),
    }
)


def decide(store: Store, generation: str, wanted: Decision) -> Decision:
    """Return what stands as the decision on a request: this one, or the one that was there.

    Raises StorageError if that is not known. That nothing is there settles nothing either: somebody's create may still
    be on its way.
    """
    name = decision_object(generation, wanted.number)
    if not store.local:
        # A server that does not know or keep conditions would let the create replace what stands. (A mount may go on
        # denying a name that it was asked for too early, so it is not asked first.)
        with suppress(FileNotFoundError):
            return _read(store, name, wanted.number)
    try:
        # The write id makes the bytes this call's own.
        if store.create(name, json.dumps({**asdict(wanted), "write_id": secrets.token_hex(8)}).encode() + b"\n"):
            return wanted
    except NotCreated:
        raise
    except StorageError:
        pass  # it may stand there all the same
    try:
        return _read(store, name, wanted.number)
    except FileNotFoundError:
        raise StorageError(f"{store.url}/{name} may have been made or not", object=name) from None


def _read(store: Store, name: str, number: int) -> Decision:
    try:
        return checked(spec.load(store.read(name, limit=LARGEST)), number)
    except spec.Unexpected as error:
        raise StorageError(f"{store.url}/{name} is no decision: it {error}", object=name) from None


def checked(content: Any, number: int) -> Decision:
    """Return the decision with these fields, which must be that on the request of a number. Raises spec.Unexpected."""
    _DECISION(content)
    if content["number"] != number:
        raise spec.Unexpected(f"is that on request {content['number']}, and not {number}")
    return Decision(**{each.name: content[each.name] for each in fields(Decision)})


def remove_decisions(store: Store, generations: Container[str]) -> None:
    """Remove the decisions of generations that never save again."""
    for name in store.list(AGREED_FOLDER):
        generation = name.removesuffix("/")
        if generation in generations:
            store.delete_folder(agreed_folder(generation))
