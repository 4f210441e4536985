"""The format on storage and its I/O: layout, log, manifest, TensorFlow's bundle index, stores."""
