"""The coordinator's decisions: events in, effects out.

Theory of operation. A `Machine` holds one run. `Machine.handle(event, now)` is its only mutator: it takes one event (a
worker's call, the result of an effect, or a tick of the clock) and returns the effects that the driver carries out
(answer a call, read the log, create the next entry, finish a checkpoint, delete a folder). Nothing in here does I/O,
reads a clock, draws a random number or logs; the same events give the same effects, always. So every history that a
network, a storage or a crash can produce can be played to it in a test.

`messages`, `events` and `effects` are its inputs and outputs. The rest is in two layers.

The first layer is state, and what each piece can decide by itself:

- `membership`: a `World` is one generation of workers, with its save and its restore; `Forming` is a world that is not
  complete yet.
- `attempt`: one save in flight. `vote`: whether it may be written.
- `restore_round`: how a world agrees on what to restore.
- `agreement`: at which boundary all save if somebody asks for it. `requests`: what else a world knows of that.
- `retention`: what may go, by `rules`. `dealing`: who reads what of a new checkpoint.
- `ledger`: the log as last read, and the entries to create, one at a time. `intents`: what each entry changes. `waits`:
  who waits for the log.

The second layer acts on it, with one class for each kind of event. All share a `RunState` (`run`): the worlds, the
ledger, who leads, the time of the event, and the effects so far.

- `joining`: worlds form, or come back to a restarted coordinator.
- `attendance`: who is there, and who leaves.
- `saving`: vote, reports, and the commit. `leading`: the first save of a world takes the lead.
- `asking`: saves that are asked for.
- `restoring`: the rounds. `damage`: what a worker found damaged is read once more, and condemned.
- `upkeep`: after a commit, reading back, retiring and deleting; and what earlier generations left. `reading_back`: by
  shares.

`machine` puts these together: it says which event goes where, and what the clock does.
What waits for the log, or for another leader's answer, is a value, so the whole state can be copied and compared.
"""
