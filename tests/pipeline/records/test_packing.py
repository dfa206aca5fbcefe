"""Packing: which pairs share a record, what the record holds, and that it is the same pairs."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random

import numpy as np
import pytest

from pipeline.manifest import read_manifest
from pipeline.records.packing import pack, pairs_of_records, unpack
from pipeline.schema import ENCODER_INPUTS, MASKED_LM_FEATURES
from tests.conftest import TOPICS, make_sentences
from tests.pipeline.records.made_datasets import contents, make, preprocess, records


@pytest.mark.parametrize(
    ("lengths", "predictions", "limits", "expected"),
    [
        # 9; 7 + 3; 5 + 4: the 4 fits best next to the 5, which leaves the least room.
        ([5, 9, 3, 4, 7], [0] * 5, (10, 9, 9), [[0, 3], [1], [4, 2]]),
        ([2, 2, 2, 2, 2], [0] * 5, (10, 9, 2), [[0, 1], [2, 3], [4]]),
        # The 4 would fit next to the 6, but their predictions would not.
        ([6, 4, 5], [2, 2, 1], (10, 3, 9), [[0], [2, 1]]),
        ([10, 10], [3, 3], (10, 3, 9), [[0], [1]]),
    ],
)
def test_pairs_of_records_by_hand(
    lengths: list[int],
    predictions: list[int],
    limits: tuple[int, int, int],
    expected: list[list[int]],
) -> None:
    names = ("max_seq_length", "max_predictions", "max_pairs")
    found = pairs_of_records(lengths, predictions, **dict(zip(names, limits, strict=True)))
    assert found == expected


def test_records_keep_their_limits_and_hold_every_pair_once() -> None:
    rng = Random(3)
    lengths = [rng.randint(5, 64) for _ in range(2000)]
    predictions = [max(1, round(0.15 * (length - 3))) for length in lengths]
    found = pairs_of_records(
        lengths, predictions, max_seq_length=64, max_predictions=10, max_pairs=4
    )
    assert sorted(pair for record in found for pair in record) == list(range(2000))
    for record in found:
        assert sum(lengths[pair] for pair in record) <= 64
        assert sum(predictions[pair] for pair in record) <= 10
        assert len(record) <= 4
        assert lengths[record[0]] == max(lengths[pair] for pair in record)
    assert sum(lengths) / (64 * len(found)) > 0.98
    # Records are not sorted by length: neither half has most of the long ones.
    longest = [lengths[record[0]] for record in found]
    halves = np.array_split(np.array(longest), 2)
    assert halves[0].mean() == pytest.approx(halves[1].mean(), rel=0.05)


PAIRS = {
    "input_ids": np.array([[2, 7, 3, 4, 3, 9], [2, 4, 3, 8, 3, 9], [2, 5, 4, 3, 6, 3]]),
    "input_mask": np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]),
    "segment_ids": np.array([[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1]]),
    "next_sentence_labels": np.array([[1], [0], [1]]),
    "masked_lm_positions": np.array([[3, 0, 0], [1, 3, 0], [2, 0, 0]]),
    "masked_lm_ids": np.array([[11, 0, 0], [12, 8, 0], [13, 0, 0]]),
    "masked_lm_weights": np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0]], np.float32),
}
"""Three pairs of 5, 5 and 6 pieces; [PAD] is 9."""


def widened(pairs: Mapping[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
    wide = dict(pairs)
    for name in ENCODER_INPUTS:
        fill = 9 if name == "input_ids" else 0
        more = ((0, 0), (0, length - pairs[name].shape[1]))
        wide[name] = np.pad(pairs[name], more, constant_values=fill)
    return wide


def test_a_packed_record_by_hand() -> None:
    found = pack(widened(PAIRS, 12), np.array([0, 0, 1]), max_predictions=4, max_pairs=3, pad_id=9)
    expected = {
        "input_ids": [[2, 7, 3, 4, 3, 2, 4, 3, 8, 3, 9, 9], [2, 5, 4, 3, 6, 3] + [9] * 6],
        "input_mask": [[1] * 10 + [0] * 2, [1] * 6 + [0] * 6],
        "segment_ids": [[0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1] + [0] * 6],
        "position_ids": [[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 0], [0, 1, 2, 3, 4, 5] + [0] * 6],
        "masked_lm_positions": [[3, 6, 8, 0], [2, 0, 0, 0]],
        "masked_lm_ids": [[11, 12, 8, 0], [13, 0, 0, 0]],
        "masked_lm_weights": [[1, 1, 1, 0], [1, 0, 0, 0]],
        "next_sentence_labels": [[1, 0, 0], [1, 0, 0]],
        "next_sentence_positions": [[0, 5, 0], [0, 0, 0]],
        "next_sentence_weights": [[1, 1, 0], [1, 0, 0]],
    }
    assert {name: values.tolist() for name, values in found.items()} == expected
    pairs, record_of, slot = unpack(found, pad_id=9)
    assert (record_of.tolist(), slot.tolist()) == ([0, 0, 1], [0, 1, 0])
    for name, values in pairs.items():
        np.testing.assert_array_equal(values, widened(PAIRS, 12)[name], err_msg=name)


def rows(arrays: Mapping[str, np.ndarray]) -> Counter[tuple[bytes, ...]]:
    names = (*ENCODER_INPUTS, "next_sentence_labels")
    return Counter(
        tuple(arrays[name][row].astype(np.int64).tobytes() for name in names)
        for row in range(len(arrays["input_ids"]))
    )


def unmasked(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Put the labels of the predictions back into the pieces."""
    ids = arrays["input_ids"].copy()
    positions, labels, weights = (arrays[name] for name in MASKED_LM_FEATURES)
    row, slot = np.nonzero(weights)
    ids[row, positions[row, slot]] = labels[row, slot]
    return {**arrays, "input_ids": ids}


@pytest.mark.parametrize(("pairing", "masking"), [("nsp", "whole-word"), ("sop", "span")])
def test_a_packed_dataset_has_the_pairs_and_masks_of_an_unpacked_one(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path, pairing: str, masking: str
) -> None:
    flags = ["--pairing", pairing, "--masking", masking, "--max-seq-length", "160"]
    plain = make(prose_corpus / "*.txt", vocab_path, tmp_path / "plain", *flags)
    packed = make(prose_corpus / "*.txt", vocab_path, tmp_path / "packed", *flags, "--packing")
    for split in ("train", "eval"):
        expected, found = records(tmp_path / "plain", split), records(tmp_path / "packed", split)
        assert rows(unpack(found, pad_id=0)[0]) == rows(expected)
        assert rows(unpack(unmasked(found), pad_id=0)[0]) == rows(unmasked(expected))
        assert len(found["input_ids"]) < 0.8 * len(expected["input_ids"])
        of_plain, of_packed = plain.statistics[split], packed.statistics[split]
        assert of_packed["pairs"] == of_plain["examples"]
        assert of_packed["examples"] == packed.examples(split) == len(found["input_ids"])
        for name in ("real_positions", "predictions", "truncated_pieces", "pieces"):
            assert of_packed.get(name) == of_plain.get(name)
    assert packed.pairs_per_record == packed.statistics["train"]["pairs"] / packed.examples("train")
    assert plain.pairs_per_record == 1


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4], indirect=True)
def test_packed_records_are_the_same_from_several_processes(
    workers: list[str], prose_corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    flags = ["--packing", "--max-seq-length", "160"]
    make(prose_corpus / "*.txt", vocab_path, tmp_path / "one", *flags)
    make(prose_corpus / "*.txt", vocab_path, tmp_path / "several", *flags, *workers)
    assert contents(tmp_path / "several") == contents(tmp_path / "one")


def test_short_documents_fill_packed_records(vocab_path: Path, tmp_path: Path) -> None:
    rng = Random(5)
    documents = [
        "\n".join(make_sentences(rng, rng.choice(sorted(TOPICS)), rng.randint(2, 6)))
        for _ in range(3000)
    ]
    (tmp_path / "lines.txt").write_text("\n\n".join(documents))
    flags = ["--input-format", "lines", "--max-seq-length", "126", "--eval-rate", "0"]
    shares = {}
    for name, more in (("plain", []), ("packed", ["--packing"])):
        made = make(tmp_path / "lines.txt", vocab_path, tmp_path / name, *flags, *more)
        total = made.statistics["train"]
        shares[name] = total["real_positions"] / total["positions"]
    assert shares["plain"] < 0.5
    assert shares["packed"] > 0.98


def test_the_manifest_names_another_format(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    for name, more, version in (("plain", [], 1), ("packed", ["--packing", "--max-pairs", "3"], 2)):
        made = make(prose_corpus / "*.txt", vocab_path, tmp_path / name, *more)
        text = (tmp_path / name / "manifest.json").read_text()
        assert f'"format": "clozeline-dataset/{version}"' in text
        assert made == read_manifest(tmp_path / name)
        assert made.max_pairs == (1 if version == 1 else 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--packing", "--pairing", "none"], "--packing: --pairing none already fills records"),
        (["--max-pairs", "3"], "--max-pairs: needs --packing"),
        (["--packing", "--max-pairs", "1"], "--max-pairs 1: must be from 2 to 4096"),
    ],
)
def test_flags_that_do_not_fit(
    prose_corpus: Path,
    vocab_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    assert preprocess(prose_corpus / "*.txt", vocab_path, tmp_path / "ds", *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
