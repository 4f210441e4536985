"""One save of a worker: snapshot, digest, vote, plan, write, report, outcome."""
