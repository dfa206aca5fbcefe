"""Attention rollout: how much each input piece contributes to each vector of the last layer."""

import numpy as np


def attention_rollout(attention: np.ndarray) -> np.ndarray:
    """Return the attention of each position of the last layer to each piece, through all layers.

    Abnar & Zuidema 2020, https://arxiv.org/abs/2005.00928, section 3: average the heads, mix half
    and half with the identity for the residual connection, and multiply over the layers.

    Args:
        attention: float [layers, heads, L, L]. Attention weights; each row sums to 1.

    Returns:
        float32 [L, L]. Each row sums to 1.
    """
    rolled = np.eye(attention.shape[-1])
    for layer in attention.astype(np.float64).mean(axis=1):
        rolled = (0.5 * layer + 0.5 * np.eye(len(layer))) @ rolled
    return rolled.astype(np.float32)
