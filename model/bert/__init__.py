"""The network: a BERT in numbers, its layers, its kernels, its functional Keras models."""
