"""The coordinator: a state machine without I/O (`core`), and what drives it."""
