"""Damaged checkpoints: this coordinator is the second reader, and what it confirms is condemned.

The workers wait for its verdict (`restore_round`): without it nobody goes back to an older checkpoint. The next save of
the leading world writes the mark into the log (`saving`). TensorFlow's `checkpoint` file is rewritten at once. See
docs/design/006-damage-and-orphans.md.
"""

from __future__ import annotations

from . import events as ev
from .effects import ReadBackCheckpoint, Remark
from .leading import Leading
from .restore_round import BAD
from .run import RunState
from .waits import Show


class Damage:
    """Keeps `RunState.condemned` and `RunState.rereading`."""

    def __init__(self, run: RunState, leading: Leading) -> None:
        self._run = run
        self._leading = leading

    def second(self, prefix: str, since: float) -> str:
        """Return the second reader's verdict on a checkpoint that a worker finds damaged or absent.

        It is empty while the checkpoint is being read; a ReadBack follows. For a checkpoint of another run, the
        worker's verdict is enough, since nobody goes back from it.

        since: a monotonic time by which the checkpoint was committed.
        """
        run, state = self._run, self._run.ledger.state
        record = state.find(prefix) if state else None
        if record is None or state is None or prefix in {*run.condemned, *state.damaged}:
            return "damaged"
        if prefix not in self._run.rereading:
            self._run.rereading.add(prefix)
            run.emit(ReadBackCheckpoint(record, since))
        return ""

    def read_back(self, e: ev.ReadBack) -> None:
        if e.prefix not in self._run.rereading:
            return
        self._run.rereading.remove(e.prefix)
        if e.verdict not in BAD:
            text = f"a worker cannot restore {e.prefix} and this coordinator finds it {e.verdict}: it is not marked"
            self._run.emit(Remark(text))
            return
        self._run.condemned.add(e.prefix)
        text = (
            f"{e.prefix} is {e.verdict}, as two readers have found: it is marked as damaged and not restored any more"
        )
        self._run.emit(Remark(text))
        living = "" if self._run.leading else self._leading.who_lives(Show())
        if living is not None:
            self.show(living)

    def show(self, living: str) -> None:
        """Let stock readers find a good checkpoint, unless the file belongs to another job that is alive."""
        run, state = self._run, self._run.ledger.state
        # Without a log the file is TensorFlow's own.
        if not living and run.ledger.number >= 0 and state:
            run.show(run.ledger.number, state)
