"""The coordinator: a state machine without I/O (`core`), and the code that drives it."""
