"""Evaluate a run's vectors on a retrieval collection: rank a corpus for each query.

Shapes: Q queries, C documents of a part of the corpus, D components of a vector.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.tasks.batches import Batches
from model.tasks.encoded import Encoded
from model.tasks.encoder import Encoder
from model.tasks.evaluation import Evaluation
from model.tasks.predict import predict
from model.tasks.retrieval import (
    CORPUS,
    CUT,
    DEEPEST,
    BestDocuments,
    Topics,
    count_documents,
    mean_measures,
    query_measures,
    ranking,
    read_corpus,
)
from model.tasks.task_kind import Task
from model.training.predictor import Predictor
from pipeline.errors import InputError
from pipeline.progress import progress
from pipeline.storage.strict_json import JsonObject

DOCUMENTS_AT_ONCE = 4096
"""Documents of which the vectors are in memory at a time."""

QUERIES_AT_ONCE = 256
"""Queries whose scores with these documents are in memory at a time."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextVectors:
    """Computes the vectors of texts with a run's model.

    Attributes:
        encoder: encoder of texts.
        predictor: the model.
        task: its task.
        batch_size: texts in a batch.
        pad_id: id of [PAD].
    """

    encoder: Encoder
    predictor: Predictor
    task: Task
    batch_size: int
    pad_id: int

    def of(self, texts: Sequence[str], prompt: str) -> np.ndarray:
        """Return the vectors of texts that follow a prompt, of length 1: float32 [N, D]."""
        ids, first_lengths, _ = self.encoder.join([(prompt + text,) for text in texts])
        # Each text is an example of its own.
        places = np.arange(len(texts), dtype=np.int32)
        encoded = Encoded(ids, first_lengths, None, places, groups=places[:, np.newaxis])
        size = min(self.batch_size, len(texts))
        length = self.encoder.max_seq_length
        vectors = np.stack(
            predict(self.predictor, Batches(encoded, self.task, size, self.pad_id, length))
        )
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        # Then a matrix product gives the cosines.
        unit: np.ndarray = vectors / np.maximum(lengths, 1e-12)
        return unit


def evaluate_retrieval(folder: Path, topics: Topics, vectors: TextVectors) -> Evaluation:
    """Return the ten best documents and the metrics of each query.

    A document with the query's own id is left out, as BEIR does.

    Args:
        folder: the collection.
        topics: its queries.
        vectors: the model.

    Raises:
        InputError: the corpus is missing, malformed or empty.
    """
    found = best_documents(folder, topics, vectors)
    measures: list[dict[str, float]] = []
    answers: list[JsonObject] = []
    for query, text in topics.queries.items():
        grades = topics.grades[query]
        scores = {name: score for name, score in found[query].items() if name != query}
        ranked = ranking(scores)[:DEEPEST]
        measures.append(query_measures(ranked, grades))
        relevant = [name for name, grade in grades.items() if grade > 0]
        answers.append({"query": query, "text": text, "expected": relevant, "answer": ranked[:CUT]})
    errors = [1 - each[f"ndcg_at_{CUT}"] for each in measures]
    return Evaluation(mean_measures(measures), answers, errors)


def best_documents(
    folder: Path, topics: Topics, vectors: TextVectors
) -> dict[str, dict[str, float]]:
    """Return the scores of the best documents by id, for each query.

    Raises:
        InputError: as `evaluate_retrieval`.
    """
    settings = vectors.task.vectors
    assert settings is not None
    queries = vectors.of(list(topics.queries.values()), settings.prompt_named("query"))
    total = count_documents(folder)
    if not total:
        raise InputError(f"{folder / CORPUS}: contains no documents")
    # One more, because the document with the query's own id is left out afterwards.
    best = BestDocuments(len(queries), min(DEEPEST + 1, total))
    judged = {name for grades in topics.grades.values() for name in grades}
    # The names that sentence-transformers looks for in `encode_document`.
    prompt, place = settings.prompt_named("document", "passage"), 0
    with progress() as bar:
        task = bar.add_task("documents", total=total, unit="documents")
        for part in _parts(read_corpus(folder), DOCUMENTS_AT_ONCE):
            documents = vectors.of([text for _, text in part], prompt)
            for first in range(0, len(queries), QUERIES_AT_ONCE):
                rows = slice(first, first + QUERIES_AT_ONCE)
                best.add(rows, queries[rows] @ documents.T, place)
            judged -= {name for name, _ in part}
            place += len(part)
            bar.update(task, completed=place)
    if judged:
        logger.info(f"{folder}: judged documents that are not in the corpus: {len(judged):,}")
    return _by_id(folder, list(topics.queries), best)


def _parts(records: Iterator[tuple[str, str]], size: int) -> Iterator[tuple[tuple[str, str], ...]]:
    while part := tuple(itertools.islice(records, size)):
        yield part


def _by_id(folder: Path, queries: list[str], best: BestDocuments) -> dict[str, dict[str, float]]:
    """Return the scores by document id; the ids are read again, so that they need no memory."""
    # A corpus has millions of ids, of which the best documents need few.
    best_places = set(np.unique(best.places[np.isfinite(best.scores)]).tolist())
    names = {
        place: name for place, (name, _) in enumerate(read_corpus(folder)) if place in best_places
    }
    found: dict[str, dict[str, float]] = {}
    for query, places, scores in zip(queries, best.places, best.scores, strict=True):
        of_query = found.setdefault(query, {})
        for place, score in zip(places.tolist(), scores.tolist(), strict=True):
            if np.isfinite(score):
                # The best of two texts with the same id, as their order here is arbitrary.
                of_query[names[place]] = max(score, of_query.get(names[place], score))
    return found
