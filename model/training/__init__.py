"""Training under tf.distribute: input, losses, optimizer, compiled loop, checkpoints."""
