"""The coordinator's decisions: events in, effects out.

Theory of operation. A `Machine` holds one run. `Machine.handle(event, now)` is its only mutator: it takes one event (a
worker's call, the result of an effect, or a tick of the clock) and returns the effects that the driver carries out
(answer a call, read the log, create the next entry, finish a checkpoint, delete a folder). Nothing in here does I/O,
reads a clock, draws a random number or logs; the same events give the same effects, always. So every history that a
network, a storage or a crash can produce can be played to it in a test.

`messages`, `events` and `effects` are what goes in and out. The rest is in two layers.

What there is, and what each can decide by itself:

- `membership`: a `World` is one generation of workers, with the save and the restore that it is in; `Forming` is one
  that is not complete yet.
- `attempt`: one save on its way; `vote`: whether it may be written.
- `restore_round`: how a world agrees on what to restore.
- `retention`: what may go.
- `ledger`: the log as last read, and the entries that are being created, one at a time.

What is done with them, a class for each kind of event. They share a `Run` (`run`): the worlds, the ledger, who leads,
the time of the event, and the effects so far.

- `joining`: worlds form, or come back to a coordinator that was restarted.
- `attendance`: who is there, and who leaves.
- `saving`: vote, reports, and the commit. `leading`: a save whose world does not lead the run yet takes the lead.
- `restoring`: the talks. `damage`: what a worker found damaged is read once more, and condemned.
- `upkeep`: after a commit, reading back, retiring and deleting; what earlier generations left behind.

`machine` puts these together: which event goes where, and what the clock does.
Whatever waits for the log, a call or the next phase of a save, goes on in a function that is handed to the ledger; it
looks again at what it finds then, for other events have come in between.
"""
