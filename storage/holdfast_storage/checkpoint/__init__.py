"""A committed checkpoint: its manifest, its index, and reading back every byte of it."""
