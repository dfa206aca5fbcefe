"""Kinds of dataset besides BERT's own: pairings, masks, lengths, duplicates, compression."""

import gzip
import json
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest

from clozeline.main import main
from pipeline.inspection import read_records, text_pieces
from pipeline.manifest import read_manifest
from pipeline.records.masking import Masker, record_seeds
from pipeline.text.tokenizer import Vocabulary, build_tokenizer
from tests.conftest import make_sentences
from tests.pipeline.records.made_datasets import contents, make, preprocess, records


def segments(dataset: Path, vocab: Path) -> list[tuple[tuple[int, ...], ...]]:
    """A and B of every record, labels put back; B is empty where there is none."""
    arrays = records(dataset)
    vocabulary = Vocabulary.read(vocab)
    found = []
    for row in range(len(arrays["input_ids"])):
        one = {name: values[row : row + 1] for name, values in arrays.items()}
        parts = []
        for segment in (0, 1):
            mask = one["input_mask"] * (one["segment_ids"] == segment)
            parts.append(tuple(text_pieces({**one, "input_mask": mask}, vocabulary).tolist()))
        found.append(tuple(parts))
    return found


def joined(ids: tuple[int, ...] | list[int]) -> str:
    return " ".join(map(str, ids)) + " "


@pytest.fixture(scope="module")
def texts(prose_corpus: Path, vocab_path: Path) -> list[str]:
    """The pieces of every document of the corpus."""
    tokenizer = build_tokenizer(Vocabulary.read(vocab_path).pieces, lower_case=True)
    paths = sorted(prose_corpus.glob("*.txt"))
    return [joined(tokenizer.tokenize([p.read_text()]).flat_values.numpy().tolist()) for p in paths]


def test_sentence_order(
    prose_corpus: Path, vocab_path: Path, texts: list[str], tmp_path: Path
) -> None:
    manifest = make(prose_corpus / "*.txt", vocab_path, tmp_path / "ds", "--pairing", "sop")
    labels = records(tmp_path / "ds")["next_sentence_labels"][:, 0]
    for (a, b), label in zip(segments(tmp_path / "ds", vocab_path), labels, strict=True):
        homes = [text for text in texts if joined(a) in text and joined(b) in text]
        assert homes
        first, second = (b, a) if label else (a, b)
        assert any(
            text.find(joined(second), text.find(joined(first)) + len(joined(first))) >= 0
            for text in homes
        )
    assert 0.3 < labels.mean() < 0.7
    assert manifest.statistics["train"]["swapped"] == labels.sum()
    assert "random_next" not in manifest.statistics["train"]


def test_sentence_order_needs_two_sentences(vocab_path: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("The fox sees the owl.")
    (tmp_path / "in" / "b").write_text("The boat fears. The sailor loves the boat.")
    # One sentence, but longer than half a record: split, it makes a pair.
    (tmp_path / "in" / "c").write_text("The fox sees" + " the owl and the fox" * 9 + ".")
    more = ["--pairing", "sop", "--shards", "1", "--eval-rate", "0"]
    manifest = make(tmp_path / "in" / "*", vocab_path, tmp_path / "ds", *more)
    assert manifest.dropped_documents == {"too_short": 1}
    assert manifest.statistics["train"]["documents"] == 2


def test_no_pairs_packs_every_piece_once(
    prose_corpus: Path, vocab_path: Path, texts: list[str], tmp_path: Path
) -> None:
    more = ["--pairing", "none", "--eval-rate", "0", "--short-seq-rate", "0"]
    manifest = make(prose_corpus / "*.txt", vocab_path, tmp_path / "ds", *more)
    arrays = records(tmp_path / "ds")
    assert "next_sentence_labels" not in arrays
    assert not arrays["segment_ids"].any()
    found = segments(tmp_path / "ds", vocab_path)
    assert Counter(piece for a, _ in found for piece in a) == Counter(
        int(piece) for text in texts for piece in text.split()
    )
    total = manifest.statistics["train"]
    assert total["pieces"] == sum(len(text.split()) for text in texts)
    assert total["real_positions"] / total["positions"] > 0.75
    assert total.get("truncated_pieces", 0) == 0
    # Some records continue after the end of a document, which [SEP] marks, never masked.
    sep_id = Vocabulary.read(vocab_path).sep_id
    separators = (arrays["input_ids"] == sep_id).sum(axis=1)
    assert (separators >= 1).all()
    assert (separators > 1).sum() > 20


@pytest.mark.parametrize("masking", ["token", "whole-word", "span"])
def test_dynamic_masks_are_left_for_later(
    masking: str, prose_corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    """Records on disk, masked by the same code, equal records with static masks."""
    how = ["--masking", masking]
    make(prose_corpus / "*.txt", vocab_path, tmp_path / "static", *how)
    manifest = make(prose_corpus / "*.txt", vocab_path, tmp_path / "ds", *how, "--masks", "dynamic")
    masker = Masker(Vocabulary.read(vocab_path), masking=masking, mask_rate=0.15, max_predictions=5)  # type: ignore[arg-type]
    static = read_manifest(tmp_path / "static")
    for shard, other in zip(manifest.splits["train"], static.splits["train"], strict=True):
        (found,) = read_records(tmp_path / "ds" / shard.name, manifest)
        (expected,) = read_records(tmp_path / "static" / other.name, static)
        assert not any(name.startswith("masked_lm") for name in found)
        name = shard.name.removesuffix(".tfrecord")
        seeds = record_seeds(f"9/{name}/masks", np.arange(shard.examples))
        masked = {**found, **masker(found["input_ids"], found["input_mask"], seeds)}
        for feature, values in expected.items():
            np.testing.assert_array_equal(masked[feature], values, err_msg=feature)


def test_several_lengths_equal_separate_jobs(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--max-seq-length", "48", "24", "--json"]
    assert preprocess(prose_corpus / "*.txt", vocab_path, tmp_path / "both", *more) == 0
    result = json.loads(capsys.readouterr().out)
    assert [made["dataset"] for made in result["datasets"]] == [
        f"{tmp_path}/both/48",
        f"{tmp_path}/both/24",
    ]
    for length, predictions in (("24", 4), ("48", 8)):
        alone = tmp_path / length
        made = make(prose_corpus / "*.txt", vocab_path, alone, "--max-seq-length", length)
        assert contents(tmp_path / "both" / length) == contents(alone)
        assert (made.max_seq_length, made.max_predictions) == (int(length), predictions)
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == ["24", "48"]
    assert main(["inspect", str(tmp_path / "both")]) == 2
    assert f"name one of {tmp_path}/both/24 {tmp_path}/both/48" in capsys.readouterr().err


def test_predictions_for_every_length(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths = ["--max-seq-length", "24", "48", "--max-predictions"]
    assert preprocess(prose_corpus / "*.txt", vocab_path, tmp_path / "ds", *lengths, "3") == 2
    assert "--max-predictions: expected as many numbers" in capsys.readouterr().err
    assert preprocess(prose_corpus / "*.txt", vocab_path, tmp_path / "ds", *lengths, "3", "6") == 0
    assert read_manifest(tmp_path / "ds" / "24").max_predictions == 3
    assert read_manifest(tmp_path / "ds" / "48").max_predictions == 6


def test_no_piece_is_lost_if_pairs_carry_overflow(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for how in ("cut", "carry"):
        more = ["--overflow", how, "--duplicates", "1"]
        made = make(prose_corpus / "*.txt", vocab_path, tmp_path / how, *more)
        lost = made.statistics["train"]["truncated_pieces"]
        assert (lost > 0.02 * made.statistics["train"]["pieces"]) == (how == "cut")
        assert made.settings["overflow"] == how
    assert lost == 0
    assert main(["inspect", str(tmp_path / "carry")]) == 0
    capsys.readouterr()
    more = ["--overflow", "carry", "--pairing", "none"]
    assert preprocess(prose_corpus / "*.txt", vocab_path, tmp_path / "none", *more) == 2
    assert "--overflow carry: --pairing none has whole sentences" in capsys.readouterr().err


def test_deduplication_equals_a_corpus_without_duplicates(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    doubled = tmp_path / "doubled"
    doubled.mkdir()
    for index, path in enumerate(sorted(prose_corpus.glob("*.txt"))):
        for copy in range(1 + (index % 4 == 0) + (index % 8 == 0)):
            (doubled / f"{copy}-{path.name}").write_bytes(path.read_bytes())
    once = make(prose_corpus / "*.txt", vocab_path, tmp_path / "once")
    made = make(doubled / "*", vocab_path, tmp_path / "ds", "--deduplicate")
    assert made.dropped_documents == {"duplicate": 15 + 8}
    assert made.splits == once.splits  # checksums
    kept = make(doubled / "*", vocab_path, tmp_path / "kept")
    assert kept.dropped_documents == {}
    assert sum(total["documents"] for total in kept.statistics.values()) == 60 + 15 + 8


def test_gzip_holds_the_same_records(prose_corpus: Path, vocab_path: Path, tmp_path: Path) -> None:
    plain = make(prose_corpus / "*.txt", vocab_path, tmp_path / "plain")
    packed = make(prose_corpus / "*.txt", vocab_path, tmp_path / "ds", "--compression", "gzip")
    for one, other in zip(plain.splits["train"], packed.splits["train"], strict=True):
        assert other.name == one.name + ".gz"
        unpacked = gzip.decompress((tmp_path / "ds" / other.name).read_bytes())
        assert unpacked == (tmp_path / "plain" / one.name).read_bytes()
        assert other.size_bytes < one.size_bytes / 2
    assert main(["inspect", str(tmp_path / "ds")]) == 0
    again = make(
        prose_corpus / "*.txt", vocab_path, tmp_path / "ds", "--overwrite", "--compression", "none"
    )
    assert again == plain
    assert not list((tmp_path / "ds").glob("*.gz"))


def test_every_document_is_used_or_counted(vocab_path: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    good = [" ".join(make_sentences(Random(i), "sea", 3)) for i in range(30)]
    lines = [json.dumps({"id": i, "text": text}).encode() for i, text in enumerate(good)]
    lines += [b"{", b'{"id": 1}', b'{"text": 3}', b'{"text": "caf\xe9"}', b'{"text": "  "}']
    lines += [b'{"text": "Fox."}', b'{"text": "The fox."}', lines[0], lines[1], b""]
    corpus.write_bytes(b"\n".join(lines))
    more = ["--input-format", "jsonl", "--deduplicate", "--min-document-pieces", "3"]
    manifest = make(corpus, vocab_path, tmp_path / "ds", *more, "--max-unreadable-rate", "0.2")
    assert manifest.dropped_documents == {
        "duplicate": 2,
        "empty": 1,
        "invalid_json": 1,
        "invalid_utf8": 1,
        "no_text": 2,
        "too_short": 1,  # "fox ." of two pieces; "the fox ." has three
    }
    used = sum(total["documents"] for total in manifest.statistics.values())
    assert used + sum(manifest.dropped_documents.values()) == 39


def test_too_many_damaged_documents_are_an_error(
    vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    good = [json.dumps({"text": s}) for s in make_sentences(Random(2), "sea", 20)]
    corpus.write_text("\n".join([*good, "{", "}", "[", '{"text": 1}']))
    more = ["--input-format", "jsonl", "--eval-rate", "0"]
    assert preprocess(corpus, vocab_path, tmp_path / "ds", *more) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "4 of 24 documents cannot be read (3 invalid_json, 1 no_text)" in last
    assert "--max-unreadable-rate (now 0.1)" in last
    assert not (tmp_path / "ds").exists()
    make(corpus, vocab_path, tmp_path / "ds", *more, "--max-unreadable-rate", "0.17")


def test_ids_keep_a_corrected_document_in_its_place(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    texts = [path.read_text() for path in sorted(prose_corpus.glob("*.txt"))]

    def write(name: str, texts: list[str]) -> Path:
        rows = [json.dumps({"key": f"doc-{i}", "text": text}) for i, text in enumerate(texts)]
        (tmp_path / name).write_text("\n".join(rows))
        return tmp_path / name

    more = ["--input-format", "jsonl", "--id-column", "key"]
    before = make(write("a", texts), vocab_path, tmp_path / "before", *more)
    corrected = ["The fox sees the owl. " + text for text in texts]
    after = make(write("b", corrected), vocab_path, tmp_path / "after", *more)
    for split in ("train", "eval"):
        old, new = before.statistics[split], after.statistics[split]
        assert old["documents"] == new["documents"]
        assert new["pieces"] == old["pieces"] + 6 * old["documents"]


def test_shards_are_nearly_equal(vocab_path: Path, tmp_path: Path) -> None:
    """A thousand documents a shard, whose lengths are as uneven as real ones: 1 to 60 sentences."""
    rng = Random(5)
    documents = [
        "\n".join(make_sentences(rng, "sea", min(60, 1 + int(rng.expovariate(0.1)))))
        for _ in range(4000)
    ]
    (tmp_path / "in.txt").write_text("\n\n".join(documents))
    more = ["--input-format", "lines", "--shards", "4", "--eval-rate", "0"]
    manifest = make(tmp_path / "in.txt", vocab_path, tmp_path / "ds", *more)
    sizes = [shard.size_bytes for shard in manifest.splits["train"]]
    assert len(sizes) == 4
    assert max(sizes) <= 1.1 * np.mean(sizes)


def test_a_missing_eval_split_is_reported(
    vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.txt").write_text("The fox sees.\n\nThe owl hears.\n\nThe boat passes.\n")
    more = ["--input-format", "lines", "--shards", "1", "--eval-rate", "0.0001"]
    assert preprocess(tmp_path / "in.txt", vocab_path, tmp_path / "ds", *more) == 0
    message = "no document fell into the eval split; give more text or a higher --eval-rate"
    assert message in capsys.readouterr().err
