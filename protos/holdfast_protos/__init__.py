"""Holdfast's messages: those between workers and coordinator, and the records of TensorFlow's checkpoint index."""
