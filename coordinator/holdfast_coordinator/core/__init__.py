"""The coordinator's decisions: events in, effects out.

Theory of operation. A `Machine` holds one run. `Machine.handle(event, now)` is its only mutator: it takes one event (a
worker's call, the result of an effect, or a tick of the clock) and returns the effects that the driver carries out
(answer a call, read the log, create the next entry, finish a checkpoint, delete a folder). Nothing in here does I/O,
reads a clock, draws a random number or logs; the same events give the same effects, always. So every history that a
network, a storage or a crash can produce can be played to it in a test.

`membership` decides who is in a world, `vote` whether a save may be written, `attempt` holds one save on its way,
`restoring` how a world agrees on what to restore, `retention` what may go. `machine` joins them to the log.
"""
