"""Attention rollout: how much of each word of the text is in each vector of the last layer."""

import numpy as np


def attention_rollout(attention: np.ndarray) -> np.ndarray:
    """Return what each position of the last layer gathers from each piece, through all layers.

    Abnar & Zuidema 2020, https://arxiv.org/abs/2005.00928, section 3: the mean of the heads, half
    of it the residual connection, multiplied from the first layer to the last.

    Args:
        attention: float [layers, heads, L, L]. Each row adds up to 1.

    Returns:
        float32 [L, L]. Each row adds up to 1.
    """
    rolled = np.eye(attention.shape[-1])
    for layer in attention.astype(np.float64).mean(axis=1):
        rolled = (0.5 * layer + 0.5 * np.eye(len(layer))) @ rolled
    return rolled.astype(np.float32)
