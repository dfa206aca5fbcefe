"""Metrics of rankings, as trec_eval computes them, and the files of BEIR's folder layout.

    corpus.jsonl    {"_id": ..., "title": ..., "text": ...} per line; the title may be missing
    queries.jsonl   {"_id": ..., "text": ...} per line
    qrels/NAME.tsv  query-id, corpus-id and score (0 = not relevant), separated by tabs

Sources: trec_eval 9 (m_ndcg_cut.c, m_map.c, m_recall.c, m_recip_rank.c); Thakur et al. 2021,
https://arxiv.org/abs/2104.08663, for the layout.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.storage.encodings import why_file_not_utf8
from pipeline.storage.remote_files import names_in

CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels"

CUT = 10
"""Rank up to which nDCG and MRR count."""

RECALL_CUTS = (1, 10, 100)

MOST_RELEVANT = 1 << 31
"""Largest relevance of a document."""

DEEPEST = 1000
"""Number of documents that are ranked for a query; BEIR and trec_eval use the same."""

MEASURES = (f"ndcg_at_{CUT}", f"mrr_at_{CUT}", "map", *(f"recall_at_{k}" for k in RECALL_CUTS))


def ranking(scores: Mapping[str, float]) -> list[str]:
    """Return document ids, best first; of equal scores, the greater id first, as in trec_eval."""
    return sorted(scores, key=lambda document: (scores[document], document), reverse=True)


def query_measures(ranked: Sequence[str], grades: Mapping[str, int]) -> dict[str, float]:
    """Return the metrics of one query by name, see `MEASURES`.

    Args:
        ranked: ids of the documents, best first.
        grades: relevance of the judged documents; others, and those of 0 or less, are irrelevant.
    """
    # trec_eval uses the grade itself as the gain, not 2^grade - 1.
    gains = np.array([max(grades.get(document, 0), 0) for document in ranked], float)
    ideal = np.array(sorted((grade for grade in grades.values() if grade > 0), reverse=True), float)
    is_relevant = gains > 0
    ranks = np.flatnonzero(is_relevant) + 1
    # All relevant documents, also those beyond `DEEPEST`: recall and AP are of the collection.
    count = max(len(ideal), 1)
    best = _discounted(ideal[:CUT])
    # 1 / inf is the 0 of a query without a hit in the first ranks.
    first = ranks[0] if len(ranks) and ranks[0] <= CUT else np.inf
    return {
        f"ndcg_at_{CUT}": _discounted(gains[:CUT]) / best if best else 0.0,
        f"mrr_at_{CUT}": float(1 / first),
        "map": float(np.sum(np.arange(1, len(ranks) + 1) / ranks) / count),
        **{f"recall_at_{k}": float(is_relevant[:k].sum() / count) for k in RECALL_CUTS},
    }


def _discounted(gains: np.ndarray) -> float:
    """Return the sum of gains / log2(rank + 1)."""
    return float(np.sum(gains / np.log2(np.arange(2, len(gains) + 2))))


def mean_measures(measures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the queries."""
    return {name: float(np.mean([each[name] for each in measures])) for name in MEASURES}


@dataclass(frozen=True)
class Topics:
    """The queries of a collection and their relevant documents.

    Attributes:
        queries: texts by id, of the queries that are judged.
        grades: grade by query id, then document id.
        unknown: number of judged queries that have no text, and are left out.
    """

    queries: dict[str, str]
    grades: dict[str, dict[str, int]]
    unknown: int


def read_topics(folder: Path, split: str | None) -> Topics:
    """Read the queries of a collection that a file in `qrels/` judges.

    Args:
        folder: the collection.
        split: name of the file in `qrels/`, without `.tsv`; None = test, or the only one.

    Raises:
        InputError: a file is missing or malformed, or no judged query has a text.
    """
    path = _qrels_file(folder, split)
    grades = _read_grades(path)
    texts = {name: text for name, text in _records(folder / QUERIES) if name in grades}
    if not texts:
        raise InputError(f"{path}: none of its query ids is in {folder / QUERIES}")
    known = {name: grades[name] for name in texts}
    return Topics(texts, known, len(grades) - len(known))


def _qrels_file(folder: Path, split: str | None) -> Path:
    # No glob: in a bucket, the folder's own path would be a part of the pattern.
    files = names_in(str(folder / QRELS))
    names = [name.removesuffix(".tsv") for name in files if name.endswith(".tsv")]
    if not names:
        raise InputError(f"`data` {folder}: no {QRELS}/*.tsv, which lists the relevant documents")
    # BEIR reports test, for all collections but MS MARCO.
    chosen = split or ("test" if "test" in names else names[0])
    if chosen not in names or (split is None and chosen != "test" and len(names) > 1):
        raise InputError(f"`split`: {folder / QRELS} has {', '.join(names)}; name one of them")
    return folder / QRELS / f"{chosen}.tsv"


def _read_grades(path: Path) -> dict[str, dict[str, int]]:
    grades: defaultdict[str, dict[str, int]] = defaultdict(dict)
    with _reading(path).open(encoding="utf-8-sig", newline="") as file:
        # Ids may contain quotation marks.
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        for row in _rows(path, rows):
            # BEIR's files have a header; files without one are read, too.
            if not any(row) or (rows.line_num == 1 and row[-1:] == ["score"]):
                continue
            where = f"{path}: line {rows.line_num}"
            try:
                query, document, grade = row[0], row[1], int(row[2])
                is_row = len(row) == 3 and abs(grade) <= MOST_RELEVANT
            except (ValueError, IndexError):
                is_row = False
            if not is_row:
                raise InputError(
                    f"{where}: expected query-id, corpus-id and a whole number, separated by tabs; "
                    f"got {row!r:.80}"
                )
            if grades[query].setdefault(document, grade) != grade:
                raise InputError(
                    f"{where}: {document!r:.60} is judged twice for {query!r:.60}, with "
                    f"{grades[query][document]} and {grade}; remove one"
                )
    if not grades:
        raise InputError(f"{path}: contains no judgements")
    return dict(grades)


def _rows(path: Path, reader: Any) -> Iterator[list[str]]:
    """Yield the rows of a table of judgements.

    Raises:
        InputError: the file is not in UTF-8, or a cell is too long.
    """
    try:
        yield from reader
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read: {why_file_not_utf8(path)}") from error
    except csv.Error as error:
        raise InputError(f"{path}: after line {reader.line_num}: {error}") from error


def read_corpus(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the id and the text of each document: title and text, separated by a space.

    Raises:
        InputError: the file is missing or malformed.
    """
    return _records(folder / CORPUS)


def count_documents(folder: Path) -> int:
    """Return the number of lines of the corpus.

    Raises:
        InputError: the file is missing.
    """
    with _reading(folder / CORPUS).open("rb") as file:
        return sum(1 for line in file if line.strip())


def _records(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the id and the text of each line of a JSON Lines file."""
    with _reading(path).open(encoding="utf-8-sig") as file:
        lines = enumerate(file, start=1)
        try:
            for number, line in lines:
                if line.strip():
                    yield _record(path, number, line)
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: cannot be read: {why_file_not_utf8(path)}") from error


def _record(path: Path, number: int, line: str) -> tuple[str, str]:
    try:
        record: Any = json.loads(line)
        # As BEIR joins them for its models.
        parts = [record.get("title") or "", record["text"]]
        name, text = record["_id"], " ".join(part for part in parts if part)
        # JSON may hold half of a surrogate pair, which the tokenizer could not read.
        text.encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: line {number}: expected an object with strings _id and text ({error!r:.80})"
        ) from error
    if not isinstance(name, str):
        raise InputError(f"{path}: line {number}: _id {name!r:.60} is not a string")
    return name, text


def _reading(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"{path}: does not exist; retrieval is evaluated on BEIR's layout")
    return path


class BestDocuments:
    """The documents with the highest scores of each query; memory does not grow with the corpus.

    Attributes:
        scores: float32 [Q, K]. Highest scores so far; -inf = no document yet.
        places: int64 [Q, K]. Place of each document in the corpus, from 0.
    """

    def __init__(self, queries: int, count: int) -> None:
        self.scores = np.full((queries, count), -np.inf, np.float32)
        self.places = np.zeros((queries, count), np.int64)

    def add(self, rows: slice, scores: np.ndarray, first_place: int) -> None:
        """Add the scores of the next documents.

        Args:
            rows: the queries.
            scores: float32 [Q, C]. Scores of the documents for these queries.
            first_place: place of the first document in the corpus.
        """
        own_places = np.arange(first_place, first_place + scores.shape[1])
        places = np.broadcast_to(own_places, scores.shape)
        all_scores = np.concatenate([self.scores[rows], scores], axis=1)
        all_places = np.concatenate([self.places[rows], places], axis=1)
        count = self.scores.shape[1]
        # Only the set matters here; the order is computed once, at the end.
        best = np.argpartition(-all_scores, count - 1, axis=1)[:, :count]
        self.scores[rows] = np.take_along_axis(all_scores, best, axis=1)
        self.places[rows] = np.take_along_axis(all_places, best, axis=1)
