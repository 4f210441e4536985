"""One restore, on one worker: agree on a checkpoint, read and verify it, give it to TensorFlow."""
