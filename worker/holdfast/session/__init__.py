"""A worker's place in its world: who it is, how it reaches the coordinator, and the thread that makes its calls."""
