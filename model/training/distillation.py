"""Losses of a student that learns from a teacher, as pure functions.

Shapes: B batch, L positions, C classes, H hidden size of the student, G of the teacher, R relation
heads.
"""

from typing import Any

import tensorflow as tf

from model.bert.kernels import HIDDEN


def soft_cross_entropy(
    student: tf.Tensor, teacher: tf.Tensor, weights: tf.Tensor, temperature: float
) -> tf.Tensor:
    """Return the summed divergence of a student's distributions from its teacher's, float32 [].

    T² · KL(softmax(teacher / T) ‖ softmax(student / T)): its gradient is that of the cross-entropy
    with soft targets, and T² keeps the gradient's size at every temperature T (Hinton, Vinyals &
    Dean 2015, https://arxiv.org/abs/1503.02531, section 2).

    Args:
        student: float32 [..., C]. Logits.
        teacher: float32 [..., C]. Logits.
        weights: float32 [...]. 1 = counts, 0 = does not.
        temperature: T, above 0.
    """
    expected = tf.nn.log_softmax(teacher / temperature)
    differences = expected - tf.nn.log_softmax(student / temperature)
    divergences = tf.reduce_sum(tf.exp(expected) * differences, axis=-1)
    return temperature**2 * tf.reduce_sum(divergences * weights)


def relation_loss(
    student: tf.Tensor,
    teacher: tf.Tensor,
    input_mask: tf.Tensor,
    relation_heads: int,
    seen: tf.Tensor | None = None,
) -> tf.Tensor:
    """Return the divergence of a student's self-attention relations from its teacher's, float32 [].

    The relations of vectors are softmax(A Aᵀ / √d), where A are the vectors of all heads, joined
    and split again into R relation heads of d numbers each; so student and teacher may differ in
    width and in number of attention heads. The loss is KL(teacher ‖ student), averaged over
    relation heads and summed over positions (Wang et al. 2021, MiniLMv2,
    https://arxiv.org/abs/2012.15828, section 3.1, equations 3 to 6).

    Args:
        student: float [B, L, H]. Queries, keys or values of a layer, with their bias, not scaled.
        teacher: float [B, L, G]. The same of the teacher.
        input_mask: int32 [B, L]. 1 = real piece, 0 = padding.
        relation_heads: R; it divides H and G.
        seen: int32 [B, L, L]. 1 = the positions of both axes are related, see `attention_mask`;
            None = all real ones are.
    """
    is_real = tf.cast(input_mask, tf.float32)
    related = is_real[:, tf.newaxis, :] if seen is None else tf.cast(seen, tf.float32)
    hidden = (1.0 - related)[:, tf.newaxis, :, :] * HIDDEN
    expected, found = (
        tf.nn.log_softmax(_relations(vectors, relation_heads) + hidden)
        for vectors in (teacher, student)
    )
    divergences = tf.reduce_sum(tf.exp(expected) * (expected - found), axis=-1)  # [B, R, L]
    return tf.reduce_sum(tf.reduce_mean(divergences, axis=1) * is_real)


def _relations(vectors: tf.Tensor, relation_heads: int) -> Any:
    """Return the scaled products of vectors [B, L, H] with each other: float32 [B, R, L, L]."""
    shape = tf.shape(vectors)
    size = vectors.shape[-1] // relation_heads
    split = tf.reshape(vectors, [shape[0], shape[1], relation_heads, size])  # [B, L, R, d]
    heads = tf.cast(tf.transpose(split, [0, 2, 1, 3]), tf.float32)  # [B, R, L, d]
    return tf.matmul(heads, heads, transpose_b=True) * size**-0.5
