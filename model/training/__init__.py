"""The training loop under tf.distribute, and what it needs: batches, losses, checkpoints."""
