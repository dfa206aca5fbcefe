"""A functional Keras BERT and the loop that trains it under tf.distribute."""
