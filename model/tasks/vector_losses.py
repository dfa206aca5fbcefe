"""Losses of models that turn a text into a vector.

Every function takes the vectors of a global batch and returns the loss of each example, or for
`cosent` one loss of the whole batch. All compare vectors by their cosine, in float32.

Shapes: B examples, T texts of an example (anchor, positive, and negatives if there are any),
D components of a vector.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

HIDDEN = -1e9
"""Score of a candidate that does not count."""


def in_batch_negatives(
    vectors: tf.Tensor, ids: tf.Tensor, *, scale: float, both_directions: bool = False
) -> tf.Tensor:
    """Return the cross-entropy of each anchor's choice of its positive among all candidates.

    Candidates are the positives and the negatives of all examples. A candidate with the text of
    the example's anchor or positive is no negative and does not count.

    Source: Henderson et al. 2017, https://arxiv.org/abs/1705.00652, section 4.4; with both
    directions Radford et al. 2021, https://arxiv.org/abs/2103.00020, figure 3.

    Args:
        vectors: float32 [B, T, D].
        ids: int32 [B, T]. Number of each text; equal texts have equal numbers.
        scale: factor on the cosines (1 / temperature).
        both_directions: whether to average it with the choice of each positive among all anchors.

    Returns:
        float32 [B].
    """
    unit = tf.math.l2_normalize(vectors, axis=-1)
    anchors, positives = unit[:, 0], unit[:, 1]
    # The positives stand first, so that the right candidate of example i is number i.
    candidates = _texts_in_turn(unit[:, 1:])
    losses = _choices(anchors, candidates, ids, _texts_in_turn(ids[:, 1:]), scale)
    if not both_directions:
        return losses
    return (losses + _choices(positives, anchors, ids, ids[:, 0], scale)) / 2.0


def _texts_in_turn(values: tf.Tensor) -> tf.Tensor:
    """Return [B, T, …] as [T·B, …]: the first text of all examples, then the second, and so on."""
    order = [1, 0, *range(2, values.shape.rank)]
    return tf.reshape(tf.transpose(values, order), tf.concat([[-1], tf.shape(values)[2:]], 0))


def _choices(
    queries: tf.Tensor,
    candidates: tf.Tensor,
    ids: tf.Tensor,
    candidate_ids: tf.Tensor,
    scale: float,
) -> tf.Tensor:
    """Return the cross-entropy of choosing candidate i for query i: float32 [B].

    Args:
        queries: float32 [B, D], of length 1.
        candidates: float32 [C, D], of length 1.
        ids: int32 [B, T]. Texts of each example.
        candidate_ids: int32 [C]. Text of each candidate.
        scale: factor on the cosines.
    """
    scores = scale * tf.matmul(queries, candidates, transpose_b=True)  # [B, C]
    count = tf.shape(scores)[0]
    own = tf.range(tf.shape(scores)[1]) == tf.range(count)[:, tf.newaxis]
    # Texts of an example that are right answers: its anchor and its positive, not its negatives.
    is_same = tf.reduce_any(ids[:, :2, tf.newaxis] == candidate_ids, axis=1)
    scores = tf.where(is_same & ~own, HIDDEN, scores)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.range(count), scores)


def triplet_margin(vectors: tf.Tensor, *, margin: float) -> tf.Tensor:
    """Return how far each example's negatives are from being farther than its positive.

    max(0, d(anchor, positive) - d(anchor, negative) + margin), the mean over the negatives, where d
    is 1 - cosine.

    Source: Schroff et al. 2015, https://arxiv.org/abs/1503.03832, section 3.1; Reimers & Gurevych
    2019, https://arxiv.org/abs/1908.10084, section 3 (with Euclidean distances).

    Args:
        vectors: float32 [B, T, D], T at least 3.
        margin: margin, in cosine distance.

    Returns:
        float32 [B].
    """
    unit = tf.math.l2_normalize(vectors, axis=-1)
    cosines = tf.reduce_sum(unit[:, :1] * unit[:, 1:], axis=-1)  # [B, T - 1]
    return tf.reduce_mean(tf.nn.relu(cosines[:, 1:] - cosines[:, :1] + margin), axis=-1)


def cosent(vectors: tf.Tensor, scores: tf.Tensor, weights: tf.Tensor, *, scale: float) -> tf.Tensor:
    """Return the loss of a batch whose cosines should be in the order of the scores.

    log(1 + Σ exp(scale · (cosine_i - cosine_j))) over all pairs of examples with score_i < score_j.

    Source: Su 2022, https://kexue.fm/archives/8847, equation 4; Huang et al. 2024,
    https://doi.org/10.1109/TASLP.2024.3402087.

    Args:
        vectors: float32 [B, 2, D].
        scores: float32 [B]. Similarity of the two texts; only the order counts.
        weights: float32 [B]. 0 = the example does not count.
        scale: factor on the cosines.

    Returns:
        float32 [].
    """
    cosines = scale * pair_cosines(vectors)
    differences = cosines[:, tf.newaxis] - cosines
    # Filler has a score, too; a pair with it must not enter the sum.
    is_real = weights > 0
    counts = (scores[:, tf.newaxis] < scores) & is_real[:, tf.newaxis] & is_real
    differences = tf.where(counts, differences, HIDDEN)
    return tf.reduce_logsumexp(tf.concat([[0.0], tf.reshape(differences, [-1])], 0))


def cosine_regression(vectors: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Return the squared differences between cosines and scores.

    Source: Reimers & Gurevych 2019, https://arxiv.org/abs/1908.10084, section 3.

    Args:
        vectors: float32 [B, 2, D].
        scores: float32 [B]. The cosines to learn, -1 to 1.

    Returns:
        float32 [B].
    """
    return tf.square(pair_cosines(vectors) - scores)


def pair_cosines(vectors: tf.Tensor) -> tf.Tensor:
    """Return the cosine of the first two texts of each example: float32 [B]."""
    unit = tf.math.l2_normalize(vectors, axis=-1)
    return tf.reduce_sum(unit[:, 0] * unit[:, 1], axis=-1)


def matryoshka(
    loss: Callable[[tf.Tensor], tf.Tensor], vectors: tf.Tensor, dimensions: Sequence[int]
) -> tf.Tensor:
    """Return the sum of a loss over vectors shortened to each size.

    Source: Kusupati et al. 2022, https://arxiv.org/abs/2205.13147, equation 1, with all weights 1.

    Args:
        loss: the loss as a function of the vectors.
        vectors: float32 [B, T, D].
        dimensions: sizes, at most D; empty = the full size only.
    """
    # Each size is normalized inside the loss: a prefix of a unit vector has another length.
    return tf.add_n([loss(vectors[..., :size]) for size in dimensions or (vectors.shape[-1],)])
