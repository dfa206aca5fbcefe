"""Which pieces a record asks for: the masked language model's positions, labels and noise.

Shapes: N records, L positions, P predictions.
"""

from dataclasses import dataclass

import numpy as np

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
"""Of the chosen pieces: replaced by [MASK], by a random piece; the rest stays (BERT, §3.1)."""


@dataclass(frozen=True)
class Replacements:
    """What may stand in a masked position.

    Attributes:
        mask_id: of [MASK].
        random_ids: int64 [R]. Pieces drawn from for the random share; no special tokens.
    """

    mask_id: int
    random_ids: np.ndarray


def mask_pieces(
    input_ids: np.ndarray,
    is_text: np.ndarray,
    rng: np.random.Generator,
    *,
    mask_rate: float,
    max_predictions: int,
    replacements: Replacements,
) -> dict[str, np.ndarray]:
    """Choose pieces to predict and hide them (Devlin et al. 2018, section 3.1 and appendix A.1).

    Args:
        input_ids: int64 [N, L].
        is_text: bool [N, L]. True where a piece may be chosen.
        rng: source of every choice.
        mask_rate: share of the text pieces to predict (0 to 1), rounded, at least one.
        max_predictions: P, the most to predict.
        replacements: what is put in their place.

    Returns:
        input_ids: int64 [N, L], masked; masked_lm_positions, masked_lm_ids: int64 [N, P], and
        masked_lm_weights: float32 [N, P], as in `pipeline.schema.record_features`.
    """
    rows, length = input_ids.shape
    wanted = np.rint(is_text.sum(axis=1) * mask_rate).astype(np.int64)
    wanted = np.minimum(wanted.clip(min=1), np.minimum(is_text.sum(axis=1), max_predictions))
    # The positions with the `wanted` smallest of L random keys are a uniform choice.
    keys = np.where(is_text, rng.random((rows, length), np.float32), np.float32(2))
    ranked = np.argsort(keys, axis=1, kind="stable")[:, :max_predictions]  # [N, min(L, P)]
    if max_predictions > length:
        ranked = np.pad(ranked, ((0, 0), (0, max_predictions - length)))
    used = np.arange(max_predictions) < wanted[:, None]  # [N, P]
    positions = np.sort(np.where(used, ranked, length), axis=1)
    positions[~used] = 0
    labels = np.where(used, np.take_along_axis(input_ids, positions, axis=1), 0)
    masked = input_ids.copy()
    row, slot = np.nonzero(used)
    masked[row, positions[row, slot]] = _replace(labels[row, slot], rng, replacements)
    return {
        "input_ids": masked,
        "masked_lm_positions": positions.astype(np.int64),
        "masked_lm_ids": labels.astype(np.int64),
        "masked_lm_weights": used.astype(np.float32),
    }


def _replace(
    labels: np.ndarray, rng: np.random.Generator, replacements: Replacements
) -> np.ndarray:
    """Return what stands in the place of each chosen piece, int64 [number chosen]."""
    chance = rng.random(len(labels))
    noise = rng.choice(replacements.random_ids, len(labels))
    hidden = np.where(chance < MASK_SHARE + RANDOM_SHARE, noise, labels)
    return np.where(chance < MASK_SHARE, replacements.mask_id, hidden)
