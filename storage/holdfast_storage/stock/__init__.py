"""What TensorFlow's own tools read and write in a run directory."""
