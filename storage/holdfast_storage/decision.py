"""The decision on a save that was asked for: at which boundary of their training loops all workers save.

See docs/design/021-saves-on-request.md. `deciding` puts decisions on storage.
"""

from __future__ import annotations

from dataclasses import dataclass

SAVE, FINISH, CANCEL = "save", "finish", "cancel"

LONGEST_REASON = 1000
"""The most characters of a reason."""

LONGEST_GRACE = 366 * 86_400.0
"""The most seconds that may be left."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What all workers of a generation do about one request."""

    number: int  # of the request in its generation, from 1
    verb: str  # FINISH: no new save, but wait for the one in flight
    boundary: int = 0
    exits: bool = False  # all workers end then
    reason: str = ""
    seconds: float = 0.0  # until a host is gone, when it was taken; 0: there is no hurry
