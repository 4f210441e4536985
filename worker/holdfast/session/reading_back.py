"""A session's part in reading new checkpoints back: it reads what the coordinator asks for, and says what it finds."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.session.lane import Lane, Pending
from holdfast_protos.v1 import coordinator_pb2 as pb
from holdfast_storage.checkpoint.verify import verify_checkpoint
from holdfast_storage.errors import HoldfastError, InvalidRequest
from holdfast_storage.lag import Wait
from holdfast_storage.layout import manifest_object, parse_prefix
from holdfast_storage.logger import logger
from holdfast_storage.printable import printable
from holdfast_storage.records import CheckpointRecord
from holdfast_storage.scrub import scrubbed
from holdfast_storage.store.base import Store

log = logger("holdfast")

LONGEST_REASON = 2_000
"""Characters of what is told of objects that are not good."""

MOST_QUESTIONS = 4
"""The questions that wait at once. A coordinator has one, and its predecessor may have left another."""


class ReadingBack:
    """Reads on a thread of its own, one object at a time, so that training and saves keep the host to themselves.

    Args:
        store: the run directory.
        tell: tells the coordinator. May raise a HoldfastError.
        over: whether nobody is interested any more.
    """

    def __init__(self, store: Store, tell: Callable[[pb.ExaminedRequest], object], over: Callable[[], bool]) -> None:
        self._store = store
        self._tell = tell
        self._over = over
        self._lane = Lane("holdfast-read-back")
        self._asked: list[Pending[None]] = []  # kept by the thread that hears

    def hear(self, question: pb.Notice.ReadBack) -> None:
        """Take a question. One that is not answered is not waited for."""
        self._asked = [each for each in self._asked if not each.is_known]
        if len(self._asked) >= MOST_QUESTIONS:
            return
        try:
            self._asked.append(self._lane.submit(lambda: self._answer(question)))
        except HoldfastError as error:
            log.warning("%s is not read back here: %s", question.prefix, error)

    def end(self) -> None:
        """Take no more questions."""
        self._lane.end()

    def _answer(self, question: pb.Notice.ReadBack) -> None:
        try:
            if not self._over():
                self._tell(self._examined(question))
        except Exception as error:
            unexpected = not isinstance(error, HoldfastError | _Over)
            log.info("%s was not read back here: %s", question.prefix, error, exc_info=unexpected)

    def _examined(self, question: pb.Notice.ReadBack) -> pb.ExaminedRequest:
        """Read the objects, and return what is found. Raises InvalidRequest for what no coordinator asks."""
        attempt = parse_prefix(question.prefix)
        if attempt is None:
            raise InvalidRequest("the coordinator asks for what is no checkpoint of a run")
        q = question
        record = CheckpointRecord(q.prefix, attempt.number, 0.0, manifest_crc32c=q.manifest_crc32c, base=q.base)
        report = verify_checkpoint(
            self._store,
            record,
            objects=question.objects,
            progress=self._go_on,
            threads=1,
            wait=Wait(over=self._over),
        )
        bad = {problem.object for problem in report.problems}
        good = () if manifest_object(record.folder) in bad else question.objects
        told = "; ".join(f"{problem.object} {problem.reason}" for problem in report.problems[:3])
        return pb.ExaminedRequest(
            prefix=question.prefix,
            good=[name for name in good if f"{record.folder}/{name}" not in bad],
            verdict=report.verdict,
            reason=printable(scrubbed(told), LONGEST_REASON),
        )

    def _go_on(self, count: int) -> None:
        if self._over():
            raise _Over


class _Over(Exception):
    """Nobody is interested any more."""
