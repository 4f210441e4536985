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

    @property
    def lost(self) -> set[str]:
        """The prefixes of the run's checkpoints that two readers found damaged, and of all that need them."""
        run, state = self._run, self._run.ledger.state
        return state.built_on({*run.condemned, *state.damaged}) if state else set(run.condemned)

    def is_condemned(self, prefix: str) -> bool:
        """Return whether this coordinator has found a checkpoint bad, or something that it needs."""
        run, state = self._run, self._run.ledger.state
        return prefix in (state.built_on(run.condemned) if state else run.condemned)

    def second(self, prefix: str, since: float) -> str:
        """Return the second reader's verdict on a checkpoint that a worker finds damaged or absent.

        It is empty while the checkpoint is being read; `read_back` tells it then. What a delta needs is read first, one
        after the other, so that nothing is condemned because of what it builds on. For a checkpoint of another run, the
        worker's verdict is enough, since nobody goes back from it.

        since: a monotonic time by which the checkpoint was committed.
        """
        run, state = self._run, self._run.ledger.state
        record = state.find(prefix) if state else None
        if record is None or state is None or prefix in self.lost:
            return "damaged"
        if prefix not in run.rereading:
            run.rereading[prefix] = state.chain(record), since
            run.emit(ReadBackCheckpoint(run.rereading[prefix][0][0], since))
        return ""

    def read_back(self, e: ev.ReadBack) -> list[str]:
        """Take what was found, and return the prefixes of the checkpoints that this settles with the same verdict."""
        run = self._run
        settled = []
        for prefix, (chain, since) in list(run.rereading.items()):
            if chain[0].prefix != e.prefix:
                continue
            if e.verdict == "good" and len(chain) > 1:
                run.rereading[prefix] = chain[1:], since
                run.emit(ReadBackCheckpoint(chain[1], since))
            else:
                del run.rereading[prefix]
                settled.append(prefix)
        if settled:
            self._judge(e, settled)
        return settled

    def _judge(self, e: ev.ReadBack, settled: list[str]) -> None:
        run = self._run
        if e.verdict not in BAD:
            what = e.prefix if settled == [e.prefix] else f"{', '.join(settled)}, which needs {e.prefix},"
            run.emit(
                Remark(f"a worker cannot restore {what} and this coordinator finds it {e.verdict}: it is not marked")
            )
            return
        run.condemned.add(e.prefix)
        text = (
            f"{e.prefix} is {e.verdict}, as two readers have found: it is marked as damaged and not restored any more"
        )
        run.emit(Remark(text))
        living = () if run.leading else self._leading.who_lives(Show())
        if living is not None:
            self.show(living)

    def show(self, living: tuple[str, ...]) -> None:
        """Let stock readers find a good checkpoint, unless the file belongs to another job that is alive."""
        run, state = self._run, self._run.ledger.state
        # Without a log the file is TensorFlow's own.
        if not living and run.ledger.number >= 0 and state:
            run.show(run.ledger.number, state)
