"""One save, on one worker: snapshot, digest, vote, plan, write, report, outcome."""
