"""How `inspect` and `preprocess` print a dataset: histogram, decoded records, shares."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clozeline.show.dataset import dataset_table, decoded, dropped_documents, length_table
from pipeline import schema
from pipeline.manifest import Manifest, Shard
from pipeline.schema import SPECIAL_TOKENS, Pairing
from pipeline.text.tokenizer import Vocabulary

PIECES = (*SPECIAL_TOKENS, "a", "dog", "##s", "bark")
VOCABULARY = Vocabulary.parse("\n".join(PIECES).encode(), Path("vocab.txt"))


def cells(table: Any) -> list[list[str]]:
    return [list(row) for row in zip(*(column.cells for column in table.columns), strict=True)]


@pytest.mark.parametrize(
    ("lengths", "longest", "rows"),
    [
        # Eight bins of 16 positions: the first and the last position of a bin are in it.
        ({1: 5, 16: 1, 17: 2, 128: 12}, 128, [("1-16", "6"), ("17-32", "2"), ("113-128", "12")]),
        # Bins of two; the last one has a single position.
        ({5: 1, 9: 3}, 9, [("5-6", "1"), ("9-9", "3")]),
        ({5: 1}, 5, [("5-5", "1")]),
    ],
)
def test_histogram(lengths: Mapping[int, int], longest: int, rows: list[tuple[str, str]]) -> None:
    shown = cells(length_table(lengths, longest))
    assert [(row[0], row[1]) for row in shown if row[1] != "0"] == rows
    assert sum(int(row[1]) for row in shown) == sum(lengths.values())
    assert max(len(row[2]) for row in shown) == 24
    assert shown[-1][0].endswith(f"-{longest}")


def record(label: int) -> dict[str, np.ndarray]:
    return {
        schema.INPUT_IDS: np.array([2, 5, 4, 3, 8, 3, 0, 0]),
        schema.INPUT_MASK: np.array([1, 1, 1, 1, 1, 1, 0, 0]),
        schema.SEGMENT_IDS: np.array([0, 0, 0, 0, 1, 1, 0, 0]),
        schema.MASKED_LM_POSITIONS: np.array([2, 4, 0]),
        schema.MASKED_LM_IDS: np.array([6, 8, 0]),
        schema.MASKED_LM_WEIGHTS: np.array([1.0, 1.0, 0.0]),
        schema.NEXT_SENTENCE_LABELS: np.array([label]),
    }


@pytest.mark.parametrize(
    ("pairing", "label", "begin"),
    [
        ("nsp", 0, "true next"),
        ("nsp", 1, "random next"),
        ("sop", 0, "in order"),
        ("sop", 1, "swapped"),
        ("none", 0, "sentences"),
    ],
)
def test_a_record_shows_its_pieces_and_predictions(
    pairing: Pairing, label: int, begin: str
) -> None:
    shown = decoded(record(label), VOCABULARY, pairing).plain
    assert shown == f"\n{begin}: [CLS] a dog→[MASK] [SEP] bark→bark [SEP]"


def test_each_pair_of_a_packed_record_has_a_line() -> None:
    packed = record(0) | {
        schema.INPUT_IDS: np.array([2, 5, 3, 8, 3, 2, 6, 3, 4, 3, 0, 0]),
        schema.INPUT_MASK: np.array([1] * 10 + [0] * 2),
        schema.SEGMENT_IDS: np.array([0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0]),
        schema.MASKED_LM_POSITIONS: np.array([8, 0, 0]),
        schema.MASKED_LM_WEIGHTS: np.array([1.0, 0.0, 0.0]),
        schema.NEXT_SENTENCE_LABELS: np.array([0, 1, 0]),
        schema.NEXT_SENTENCE_POSITIONS: np.array([0, 5, 0]),
        schema.NEXT_SENTENCE_WEIGHTS: np.array([1.0, 1.0, 0.0]),
    }
    assert decoded(packed, VOCABULARY, "nsp").plain.splitlines() == [
        "",
        "true next: [CLS] a [SEP] bark [SEP]",
        "random next: [CLS] dog [SEP] dog→[MASK] [SEP]",
    ]


def test_a_record_without_masks_shows_its_pieces() -> None:
    plain = {
        name: value for name, value in record(0).items() if name not in schema.MASKED_LM_FEATURES
    }
    assert decoded(plain, VOCABULARY, "nsp").plain.endswith(": [CLS] a [MASK] [SEP] bark [SEP]")


@pytest.mark.parametrize(
    ("settings", "shown", "hidden"),
    [
        ({"pairing": "nsp", "masks": "static"},
         {"predicted positions": ["20.0%", "10.0%"], "random next sentence": ["50.0%", "25.0%"]},
         {"swapped segments"}),
        ({"pairing": "sop", "masks": "dynamic"}, {"swapped segments": ["30.0%", "0.0%"]},
         {"predicted positions", "random next sentence"}),
        ({"pairing": "none", "masks": "static"}, {"predicted positions": ["20.0%", "10.0%"]},
         {"swapped segments", "random next sentence", "pairs"}),
        # Shares of the 50 and 40 pairs.
        ({"pairing": "nsp", "masks": "static", "max_pairs": 8},
         {"pairs": ["50", "40"], "random next sentence": ["20.0%", "12.5%"]}, set()),
    ],
)  # fmt: skip
def test_totals_of_a_dataset(
    settings: dict[str, Any], shown: dict[str, list[str]], hidden: set[str]
) -> None:
    common = {"documents": 1234, "sentences": 9, "pieces": 50, "examples": 20, "positions": 400}
    train = common | {
        "real_positions": 200,
        "predictions": 40,
        "random_next": 10,
        "swapped": 6,
        "pairs": 50,
    }
    held_out = common | {"real_positions": 100, "predictions": 10, "random_next": 5, "pairs": 40}
    shard = Shard("f", 20, 200, 1, "")
    manifest = Manifest(
        settings, "", 9, True, 20, 4, {"train": (shard, shard), "eval": (shard,)},
        {"train": train, "eval": held_out}, {"empty": 1234, "no_text": 2}, {},
    )  # fmt: skip
    table = dataset_table("d", manifest, seconds=2.0)
    rows = {row[0]: row[1:] for row in cells(table)}
    assert rows["documents"] == ["1,234", "1,234"]
    assert rows["real positions"] == ["50.0%", "25.0%"]
    assert rows["files"] == ["2", "1"]
    assert rows.items() >= shown.items()
    assert not hidden & rows.keys()
    assert "unknown pieces" not in rows  # which earlier versions did not count
    assert table.caption == "documents dropped: 1,234 empty, 2 no_text\n2.0 s, 150 tokens/s"
    assert dropped_documents({}) == "none"
