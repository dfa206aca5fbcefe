"""Metrics of rankings against pytrec_eval and ranx; valid and malformed files of BEIR."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.tasks.retrieval import (
    BestDocuments,
    mean_measures,
    query_measures,
    ranking,
    read_corpus,
    read_topics,
)
from pipeline.errors import InputError

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "golden" / "retrieval.json").read_text()
)


@pytest.fixture(scope="module")
def measures() -> dict[str, dict[str, float]]:
    return {
        query: query_measures(ranking(scores), GOLDEN["qrels"][query])
        for query, scores in GOLDEN["run"].items()
    }


def test_metrics_are_those_of_pytrec_eval(measures: dict[str, dict[str, float]]) -> None:
    names = {
        "ndcg_at_10": "ndcg_cut_10",
        "map": "map",
        "recall_at_10": "recall_10",
        "recall_at_100": "recall_100",
    }
    for query, found in measures.items():
        wanted = GOLDEN["pytrec_eval"][query]
        for ours, theirs in names.items():
            assert found[ours] == pytest.approx(wanted[theirs], abs=1e-9), (query, ours)
        reciprocal = wanted["recip_rank"]
        expected = reciprocal if reciprocal >= 0.1 else 0.0
        assert found["mrr_at_10"] == pytest.approx(expected, abs=1e-9)


def test_means_are_those_of_ranx(measures: dict[str, dict[str, float]]) -> None:
    wanted = GOLDEN["ranx"]
    found = mean_measures([measures[query] for query in wanted["queries"]])
    assert found["mrr_at_10"] == pytest.approx(wanted["mrr@10"], abs=1e-9)
    assert found["recall_at_10"] == pytest.approx(wanted["recall@10"], abs=1e-9)
    assert found["map"] == pytest.approx(wanted["map"], abs=1e-9)
    assert found["ndcg_at_10"] == pytest.approx(wanted["ndcg@10"], abs=1e-9)


def test_the_best_documents_of_a_corpus_in_parts() -> None:
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(3, 50)).astype(np.float32)
    best = BestDocuments(3, 7)
    for first, last in ((0, 20), (20, 21), (21, 50)):
        best.add(slice(0, 2), scores[:2, first:last], first)
        best.add(slice(2, 3), scores[2:, first:last], first)
    for row in range(3):
        assert {*best.places[row]} == {*np.argsort(-scores[row])[:7]}
        np.testing.assert_array_equal(best.scores[row], scores[row, best.places[row]])


def collection(folder: Path, **files: str) -> Path:
    contents = {
        "corpus.jsonl": '{"_id": "d1", "title": "A", "text": "cat"}\n\n{"_id": "d2", "text": "x"}',
        "queries.jsonl": '{"_id": "q1", "text": "who"}\n{"_id": "q2", "text": "not judged"}\n',
        "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\td2\t2\nq1\td9\t1\nq8\td1\t1\n",
    }
    (folder / "qrels").mkdir()
    for name, text in (contents | files).items():
        (folder / name).write_text(text)
    return folder


def test_the_files_of_a_collection(tmp_path: Path) -> None:
    folder = collection(tmp_path)
    assert list(read_corpus(folder)) == [("d1", "A cat"), ("d2", "x")]
    topics = read_topics(folder, None)
    assert topics.queries == {"q1": "who"}
    assert topics.grades == {"q1": {"d2": 2, "d9": 1}}
    assert topics.unknown == 1


def test_marks_and_blank_lines_are_no_records(tmp_path: Path) -> None:
    """Files with byte-order marks, blank lines and repeated judgements."""
    rows = "\ufeffquery-id\tcorpus-id\tscore\r\nq1\td2\t2\r\n\r\nq1\td2\t2\r\nq1\td1\t-1\r\n\n"
    record = '\ufeff{"_id": "q1", "text": "who"}\r\n\r\n'
    folder = collection(tmp_path, **{"qrels/test.tsv": rows, "queries.jsonl": record})
    assert read_topics(folder, None).grades == {"q1": {"d2": 2, "d1": -1}}


@pytest.mark.parametrize(
    ("files", "split", "message"),
    [
        ({}, "dev", "`split`: .*qrels has test; name one of them"),
        ({"qrels/test.tsv": "q1\td1\tx\n"}, None, "test.tsv: line 1: expected query-id, corpus-id"),
        ({"qrels/test.tsv": "q1 0 d1 1\n"}, None, "test.tsv: line 1: expected query-id, corpus-id"),
        ({"qrels/test.tsv": "q7\td1\t1\n"}, None, "none of its query ids is in .*queries.jsonl"),
        ({"qrels/test.tsv": ""}, None, "test.tsv: contains no judgements"),
        ({"qrels/test.tsv": "q1\td1\t1" + "0" * 400}, None, "test.tsv: line 1: expected query-id"),
        ({"qrels/test.tsv": "q1\td1\t1\t2\n"}, None, "test.tsv: line 1: expected query-id"),
        ({"qrels/test.tsv": "q1\td\t1\nq1\td\t0\n"}, None, "line 2: 'd' is judged twice for 'q1'"),
        ({"queries.jsonl": "{"}, None, "queries.jsonl: line 1: expected an object"),
        ({"queries.jsonl": '{"_id": 3, "text": "a"}'}, None, "line 1: _id 3 is not a string"),
        ({"queries.jsonl": '{"_id": "q1"}'}, None, "line 1: expected an object with strings _id"),
    ],
)
def test_malformed_collections(
    tmp_path: Path, files: dict[str, str], split: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_topics(collection(tmp_path, **files), split)


def test_collections_that_are_not_in_utf8(tmp_path: Path) -> None:
    folder = collection(tmp_path)
    (folder / "corpus.jsonl").write_bytes(b'{"_id": "d1", "text": "a"}\n{"_id": "d2\xe9"}\n')
    with pytest.raises(InputError, match=r"corpus\.jsonl: cannot be read: line 2: the byte 0xe9"):
        list(read_corpus(folder))
    (folder / "qrels" / "test.tsv").write_bytes(b"q1\td1\t1\nq\xe9\td1\t1\n")
    with pytest.raises(InputError, match=r"test\.tsv: cannot be read: line 2: the byte 0xe9"):
        read_topics(folder, None)


def test_a_folder_without_judgements(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no qrels/\*.tsv, which lists the relevant documents"):
        read_topics(tmp_path, None)
