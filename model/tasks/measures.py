"""How good answers are, by the measures that each task is known by.

scikit-learn and SciPy compute them; answers out of passages are counted as the SQuAD script does,
entities as seqeval does for their tag scheme.
"""

import re
import string
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import stats
from sklearn import metrics

from model.tasks.kinds import Task, TaskKind
from model.tasks.tag_schemes import Scheme, entities, tag_scheme

MEASURES: dict[TaskKind, tuple[str, ...]] = {
    "single": ("accuracy", "macro_f1", "f1", "matthews"),
    "pair": ("accuracy", "macro_f1", "f1", "matthews"),
    "regression": ("pearson", "spearman", "mean_squared_error"),
    "tagging": ("entity_f1", "entity_precision", "entity_recall", "accuracy"),
    "span": ("span_f1", "exact_match"),
}
"""The measures of each kind of task; the first one tells which checkpoint is the best. f1 is of the
second of two classes."""

LOWER_IS_BETTER = frozenset({"loss", "mean_squared_error"})


def class_measures(task: Task, expected: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Return the measures of classes.

    Args:
        task: whose classes they are.
        expected: int32 [N].
        found: int32 [N].
    """
    measured = {
        "accuracy": float(np.mean(expected == found)),
        "macro_f1": metrics.f1_score(expected, found, average="macro", zero_division=0),
    }
    if len(task.labels) == 2:
        measured["f1"] = metrics.f1_score(expected, found, zero_division=0)
    measured["matthews"] = metrics.matthews_corrcoef(expected, found)
    return {name: float(value) for name, value in measured.items()}


def number_measures(expected: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Return the measures of numbers, float32 [N] each; 0 for the correlation of equal ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        pearson = stats.pearsonr(expected, found).statistic if len(found) > 1 else 0.0
        spearman = stats.spearmanr(expected, found).statistic if len(found) > 1 else 0.0
    return {
        "pearson": float(np.nan_to_num(pearson)),
        "spearman": float(np.nan_to_num(spearman)),
        "mean_squared_error": float(metrics.mean_squared_error(expected, found)),
    }


def tag_measures(
    expected: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    scheme: Scheme | None = None,
) -> dict[str, float]:
    """Return the metrics of tags: of whole entities, and the accuracy of words.

    Args:
        expected: the right tags of every sentence.
        predicted: the model's tags.
        scheme: how the tags mark entities; None = detected.

    Raises:
        ValueError: the scheme is not known.
    """
    if scheme is None:
        scheme = tag_scheme(expected, {tag for tags in predicted for tag in tags})
    gold, system = (
        {(i, *entity) for i, tags in enumerate(side) for entity in entities(tags, scheme)}
        for side in (expected, predicted)
    )
    right = len(gold & system)
    precision, recall = right / max(len(system), 1), right / max(len(gold), 1)
    words = [
        a == b for x, y in zip(expected, predicted, strict=True) for a, b in zip(x, y, strict=True)
    ]
    return {
        "entity_f1": 2 * precision * recall / max(precision + recall, 1e-9),
        "entity_precision": precision,
        "entity_recall": recall,
        "accuracy": float(np.mean(words)),
    }


def normalized_answer(text: str) -> str:
    """Return an answer in lower case, without punctuation, articles and extra spaces: SQuAD's."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def answer_scores(found: str, expected: Sequence[str]) -> tuple[float, float]:
    """Return the exact match and the F1 of an answer, each against the best of the right ones.

    Args:
        found: "" = the passage does not answer.
        expected: none if it does not.
    """
    wanted = [normalized_answer(text) for text in expected] or [""]
    given = normalized_answer(found)
    exact = float(given in wanted)
    return exact, max(_word_f1(given, text) for text in wanted)


def _word_f1(found: str, expected: str) -> float:
    a, b = found.split(), expected.split()
    if not a or not b:
        return float(a == b)
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b))


def answer_measures(found: Sequence[str], expected: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the measures of answers out of passages."""
    scores = [answer_scores(*pair) for pair in zip(found, expected, strict=True)]
    exact, f1 = np.mean(scores, axis=0)
    return {"span_f1": float(f1), "exact_match": float(exact)}
