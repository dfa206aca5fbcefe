"""What a model computes for one text or pair, and why it answers as it does, as plain data."""
