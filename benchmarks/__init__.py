"""What a save costs a training job: Holdfast beside TensorFlow's own checkpoints, in one run.

    make bench                                  # or: python -m benchmarks
    python -m benchmarks --quick                # 64 MiB and two rounds: does everything work, not a measurement
    python -m benchmarks --storage s3 --peers   # the same question on an object store, see below

**Who runs.** Holdfast, `tf.train.CheckpointManager`, the same with `enable_async`, and, as the limit of what the
machine can do, two plain threads that write the same bytes, take their CRC32C and fsync. All save the same state,
trained by the same step; one worker, CPU.

**In what order.** Round by round, A B C D A B C D ..., so that a machine that slows down or warms up does it to all.
One contestant works at a time. Between two turns the files of the turn are deleted and the file systems synchronised,
so that nobody writes back what another one left dirty. Before the first turn, as much memory as the run needs is used
once and given back, so that nobody is the first to use it.

**In which process.** Each contestant has one process of its own for the whole of a case. Not all in one: what one
contestant does to the allocator (pages that it mapped, sizes that it made glibc keep) would speed up or slow down the
next, and the memory of one could not be told from that of another. And not a fresh one per round: a training job saves
many times from one process, and a first save pays for page faults, threads and graph building that the later ones do
not. Instead each process makes one whole turn before the first round, whose times do not count; they are kept in the
JSON file as `warmup`, and nothing else is left out. Memory is the other way round: only that turn shows it.

**What is timed.** See `turn.py` for each figure. Durable is compared with durable: TensorFlow does not fsync, so the
harness does it for TensorFlow's files and folder, and counts it in "durable". The training loop is what users run:
there TensorFlow's saves stay without fsync while Holdfast's have it. That favours TensorFlow.

**On S3** the store is Ceph's radosgw with its data in memory, started for the run as the tests start it (`make servers`
installs it). Holdfast, with its coordinator, digests and commit, runs beside clients that only move the bytes: s3fs one
object after the other and several at a time, and, as the limit, obstore; and beside PyTorch's distributed checkpoints
over fsspec. PyTorch is no dependency: `--peers` installs it, once, into a folder of its own, and without it the table
says that it is missing. With one worker and with two: they divide a save, and each restores all of it. Every turn is in
a fresh place of one bucket, all processes know the store from earlier turns and cache nothing, and between two turns
the objects are deleted and the store is left alone until it has nothing to do. Store and workers share the processors,
so each figure of time has the processor time of both beside it. There is no training loop: what a save costs it does
not depend on where the bytes go. See `team.py` for the figures.

**What is checked.** After every restore the CRC32C of all variables must be the one that they had at the save, with a
training step in between (on S3: everything overwritten); a contestant that fails once is out of the case, and the
report says so.
"""
