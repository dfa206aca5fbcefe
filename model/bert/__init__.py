"""The network: BERT's config, its layers, fused kernels, and functional Keras models."""
