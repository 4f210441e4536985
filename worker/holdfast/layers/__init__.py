"""What layers of both Kerases hold, and TensorFlow does not find: names for it, and its way into a checkpoint."""
