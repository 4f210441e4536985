"""Damage that a worker has found: this coordinator is the second reader, and what it confirms is marked.

Nobody waits for it: the workers go on to an older checkpoint. The log is told by the next save of the world that leads
(`saving`), TensorFlow's `checkpoint` file at once. See docs/design/006-damage-and-orphans.md.
"""

from __future__ import annotations

from . import events as ev
from .effects import ReadBackCheckpoint, Remark
from .leading import Leading
from .run import Run


class Damage:
    """Keeps `Run.condemned`."""

    def __init__(self, run: Run, leading: Leading) -> None:
        self._run = run
        self._leading = leading
        self._reading: set[str] = set()

    def suspect(self, prefix: str) -> None:
        """A worker says that a checkpoint is damaged. One that is not of this run is nobody's to judge here."""
        run, state = self._run, self._run.ledger.state
        record = state.find(prefix) if state else None
        if record and state and prefix not in {*self._reading, *run.condemned, *state.damaged}:
            self._reading.add(prefix)
            run.emit(ReadBackCheckpoint(record))

    def read_back(self, e: ev.ReadBack) -> None:
        if e.prefix not in self._reading:
            return
        self._reading.remove(e.prefix)
        if e.verdict != "damaged":
            text = f"a worker finds {e.prefix} damaged and this coordinator finds it {e.verdict}: it is not marked"
            self._run.emit(Remark(text))
            return
        self._run.condemned.add(e.prefix)
        self._run.emit(Remark(f"{e.prefix} is damaged, as two readers have found: it is not restored any more"))
        if self._run.leading:
            self._show("")
        else:
            self._leading.ask_who_lives(self._show)

    def _show(self, living: str) -> None:
        """Have stock readers find a good checkpoint, unless the file is that of another job, which is at work."""
        run, state = self._run, self._run.ledger.state
        # Without a log the file is TensorFlow's own.
        if not living and run.ledger.number >= 0 and state:
            run.show(run.ledger.number, state)
