"""The messages of Holdfast: what goes over the wire, and what TensorFlow's checkpoint index is made of."""
