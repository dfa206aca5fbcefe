"""Measure whether a pretrained model prefers grammatical sentences, on pairs made from templates.

The score of a sentence is its pseudo-log-likelihood: the sum over its pieces of the log-probability
that the masked-LM head gives the piece when only that piece is masked (Salazar et al. 2020,
https://arxiv.org/abs/1910.14659). The pairs are minimal, as in BLiMP (Warstadt et al. 2020,
https://arxiv.org/abs/1912.00582): both sentences have the same words but for one form.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline import schema

SINGULAR = ("man", "woman", "boy", "girl", "king", "doctor", "captain", "servant")
PLURAL = ("men", "women", "boys", "girls", "kings", "doctors", "captains", "servants")
PLACES = ("in the house", "by the river", "near the door")
_PREDICATES = ("very old", "at home", "not afraid")


def pairs() -> list[tuple[str, str]]:
    """Return pairs of a grammatical and an ungrammatical sentence."""
    return list(dict.fromkeys([*_verbs(), *_determiners(), *_reflexives(), *_forms()]))


def _verbs() -> Iterator[tuple[str, str]]:
    """Agreement of subject and verb, next to each other and with a phrase between."""
    for (one, many), place, rest in itertools.product(
        zip(SINGULAR, PLURAL, strict=True), ("", *PLACES), _PREDICATES
    ):
        between = f" {place}" if place else ""
        for subject, right, wrong in ((one, "was", "were"), (many, "were", "was")):
            yield tuple(f"The {subject}{between} {verb} {rest}." for verb in (right, wrong))  # type: ignore[misc]


def _determiners() -> Iterator[tuple[str, str]]:
    for (one, many), place in itertools.product(zip(SINGULAR, PLURAL, strict=True), PLACES):
        yield f"I saw this {one} {place}.", f"I saw these {one} {place}."
        yield f"I saw those {many} {place}.", f"I saw that {many} {place}."


def _reflexives() -> Iterator[tuple[str, str]]:
    for who, verb in itertools.product(("man", "boy", "king"), ("hurt", "blamed", "saw")):
        yield f"The {who} {verb} himself.", f"The {who} {verb} themselves."
    for who, verb in itertools.product(("woman", "girl", "queen"), ("hurt", "blamed", "saw")):
        yield f"The {who} {verb} herself.", f"The {who} {verb} himself."


def _forms() -> Iterator[tuple[str, str]]:
    """Forms of verbs after an auxiliary."""
    for who, (base, past) in itertools.product(
        SINGULAR, (("go", "gone"), ("see", "seen"), ("take", "taken"))
    ):
        yield f"The {who} had {past} there.", f"The {who} had {base} there."
        yield f"The {who} will {base} there.", f"The {who} will {past} there."


def pseudo_log_likelihoods(run_dir: Path, sentences: Sequence[str]) -> np.ndarray:
    """Return the pseudo-log-likelihood of each sentence in nats, float64 [sentences].

    Args:
        run_dir: directory of a pretraining run.
        sentences: texts without [MASK].
    """
    from model.run import load_run
    from pipeline.text.tokenizer import build_tokenizer

    run = load_run(run_dir)
    vocabulary = run.vocabulary
    tokenizer = build_tokenizer(vocabulary.pieces, lower_case=run.saved.dataset.lower_case)
    model = run.load_model()
    scores = np.zeros(len(sentences))
    for index, ids in enumerate(tokenizer.tokenize(list(sentences)).to_list()):
        row = np.array([vocabulary.cls_id, *ids, vocabulary.sep_id], np.int32)
        positions = np.arange(1, len(row) - 1, dtype=np.int32)
        # One row for each piece, with only that piece masked.
        masked = np.tile(row, (len(positions), 1))
        masked[np.arange(len(positions)), positions] = vocabulary.mask_id
        inputs = {
            schema.INPUT_IDS: masked,
            schema.INPUT_MASK: np.ones_like(masked),
            schema.SEGMENT_IDS: np.zeros_like(masked),
            schema.MASKED_LM_POSITIONS: positions[:, np.newaxis],
        }
        logits = np.asarray(model(inputs)["masked_lm_logits"], np.float64)[:, 0]
        top = logits.max(axis=1, keepdims=True)
        # log Σ exp, shifted by the maximum so that it does not overflow.
        log_sums = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
        scores[index] = (logits[np.arange(len(positions)), row[1:-1]] - log_sums).sum()
    return scores


def accuracy(run_dir: Path) -> float:
    """Return the share of pairs whose grammatical sentence has the higher score, 0 to 1."""
    right, wrong = zip(*pairs(), strict=True)
    better = pseudo_log_likelihoods(run_dir, right) > pseudo_log_likelihoods(run_dir, wrong)
    return float(np.mean(better))
