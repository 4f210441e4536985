"""The format on disk and its I/O: layout, log, manifest, TensorFlow bundle index, stores."""
