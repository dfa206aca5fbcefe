"""Warnings of datasets that a model cannot learn from: on each side of each bound."""

from dataclasses import replace
from typing import Any

import pytest

from pipeline.dataset_warnings import dataset_warnings
from pipeline.manifest import Manifest

TOTALS = {
    "documents": 100,
    "sentences": 1000,
    "pieces": 10_000,
    "examples": 200,
    "unknown_pieces": 200,
    "unknown_sentences": 20,
    "random_next": 150,
}
"""At every bound, and above none."""

SINGLE = {"sentences": 100, "unknown_sentences": 2}
"""A sentence in each document."""


def manifest(settings: dict[str, str], train: dict[str, int], other: dict[str, int]) -> Manifest:
    fixed: Any = ("", 9, True, 64, 10, {})
    statistics = {"train": train, "eval": other}
    everything = {"pairing": "nsp", "input_format": "prose", **settings}
    return Manifest(everything, *fixed, statistics, {}, {})


@pytest.mark.parametrize(
    ("changed", "settings", "expected"),
    [
        ({}, {}, []),
        ({"unknown_pieces": 201}, {}, ["2.0% of the pieces are [UNK], and 2.0% of the sentences"]),
        ({"unknown_sentences": 50}, {}, ["2.0% of the pieces are [UNK], and 5.0% of the sentence"]),
        ({"random_next": 160}, {}, [
            "documents have 10.0 sentences on average, so 80.0% of the next sentences are random "
            "and next-sentence prediction cannot be learned; give longer documents, or"
        ]),
        (SINGLE | {"random_next": 200}, {"input_format": "lines"}, [
            "every document has one sentence, so 100.0% of the next sentences are random and "
            "next-sentence prediction cannot be learned; put blank lines between documents only"
        ]),
        (SINGLE | {"random_next": 20}, {},
         ["every document has one sentence, so 10.0%"]),
        ({"shared_ids": 1200}, {}, ["documents with the id of another one (`id_column`): 1,200; "]),
        ({"random_next": 200}, {"pairing": "sop"}, []),
        (SINGLE | {"random_next": 0}, {"pairing": "none"}, []),
        ({"unknown_pieces": 300, "random_next": 160}, {}, ["3.0% of the pieces", "documents have"]),
    ],
)  # fmt: skip
def test_warnings(changed: dict[str, int], settings: dict[str, str], expected: list[str]) -> None:
    totals = TOTALS | changed
    part = {name: count // 4 for name, count in totals.items()}
    rest = {name: count - part[name] for name, count in totals.items()}
    found = dataset_warnings(manifest(settings, rest, part))
    assert len(found) == len(expected)
    for warning, begin in zip(found, expected, strict=True):
        assert warning.startswith(begin)


@pytest.mark.parametrize(
    ("shards", "remedy"), [(3, "use fewer `shards`"), (1, "a larger `eval_rate`")]
)
def test_documents_alone_in_their_shard(shards: int, remedy: str) -> None:
    made = manifest({}, TOTALS, dict.fromkeys(TOTALS, 0))
    made.settings["shards"] = shards
    assert not dataset_warnings(made)
    made = replace(made, dropped_documents={"no_other_document": 20, "too_short": 7})
    (warning,) = dataset_warnings(made)
    assert warning.startswith("20 of 120 documents are alone in their shard")
    assert remedy in warning
    (warning,) = dataset_warnings(replace(made, dropped_documents={"no_other_document": 1}))
    assert warning.startswith("1 of 101 documents is alone in its shard and left out")
