"""From a checkpoint to what people save, load and deploy, and back. The ecosystem's own exporters do the work.

Only `formats` and `destination` do without TensorFlow. See docs/design/031-bridges.md.
"""
