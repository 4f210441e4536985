"""One restore of a worker: agreeing on a checkpoint, reading and verifying it, giving it to TensorFlow."""
