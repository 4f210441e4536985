"""A worker's place in a world: who it is, whom it reaches, and the thread on which its calls are made."""
