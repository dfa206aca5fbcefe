"""FLOPs of a training step."""

from model.bert.config import BertConfig

NEWTON_SCHULZ_STEPS = 5
"""Iterations of Muon for the matrix of a step."""


def step_flops(
    config: BertConfig, examples: int, length: float, predictions: int, pairs: int = 1
) -> float:
    """Return the floating-point operations of the matrix products of one training step.

    A product of [m, k] and [k, n] has 2·m·k·n operations, and its two gradients twice as many
    (Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B). Recomputation by gradient
    checkpointing does not count.

    Args:
        config: hyperparameters of the model.
        examples: number of examples in the step.
        length: L, positions per example.
        predictions: P, masked positions per example.
        pairs: K, slots for pairs per example.
    """
    hidden = config.hidden_size
    gathered_from = 2 * hidden**2  # per position: keys and values
    # Per position: query, attention scores, weighted sum, and the three dense layers after it.
    gathering = 2 * hidden**2 + 2 * length * hidden + 2 * hidden * config.intermediate_size
    masked_lm = hidden**2 + hidden * config.vocab_size
    products = config.num_hidden_layers * length * gathered_from
    products += (config.num_hidden_layers - 1) * length * gathering
    # The last layer computes only the masked positions and [CLS], which a product selects.
    products += (predictions + pairs) * (gathering + length * hidden)
    products += predictions * masked_lm
    products += pairs * (hidden**2 + 2 * hidden)  # the pooler and its head
    return 3.0 * 2.0 * examples * products


def muon_flops(config: BertConfig) -> float:
    """Return the floating-point operations of the matrix products of Muon in one update.

    They do not depend on the batch, and every device of a data-parallel training does all of them.
    An iteration for a matrix [n, m], n at most m, has two products of [n, m] with [m, n] or [n, n],
    and one of [n, n] with [n, n].

    Args:
        config: hyperparameters of the model.
    """

    def of(one: int, other: int) -> float:
        n, m = sorted((one, other))
        return NEWTON_SCHULZ_STEPS * (2 * 2.0 * n * n * m + 2.0 * n**3)

    return config.num_hidden_layers * sum(of(*shape) for shape in layer_matrices(config))


def layer_matrices(config: BertConfig) -> list[tuple[int, int]]:
    """Return the shapes of a layer's matrices: attention's four, and the feed-forward block's."""
    hidden, inner = config.hidden_size, config.intermediate_size
    return [(hidden, hidden)] * 4 + [(hidden, inner), (inner, hidden)]
