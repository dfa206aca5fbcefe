"""Repeated paragraphs and lines (`pipeline.jobs.repeated_units`): all but one of each go."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from clozeline.main import main
from pipeline.manifest import Manifest, read_manifest
from pipeline.records.shard import document_key
from tests.pipeline.jobs.on_engines import contents
from tests.pipeline.jobs.random_texts import changed, random_texts

SEED = 9
NOTICE = "Subscribe to our letter. Never miss a story again!"
OTHER_NOTICE = "  SUBSCRIBE to our letter; never “miss” a story again."
RULES = "* * *"


def corpus(rng: Random) -> list[list[str]]:
    """The paragraphs of documents: own ones, notices, one of another document, separators."""
    documents = [text.split(". ") for text in random_texts(30, seed=11)]
    for document in documents:
        for planted in (NOTICE, OTHER_NOTICE, RULES, rng.choice(rng.choice(documents))):
            document.insert(rng.randrange(len(document) + 1), planted)
    documents[4] = [NOTICE, RULES, documents[5][0]]  # nothing of its own
    return documents


def normal(paragraph: str) -> str:
    return " ".join(re.findall(r"\w+", paragraph.lower())) or paragraph.strip()


def without_repeats(documents: Sequence[Sequence[str]]) -> tuple[dict[int, list[str]], int]:
    """The remaining paragraphs of each document by its index, and how many are removed.

    The first in the order of the documents' keys stays.
    """
    order = sorted(range(len(documents)), key=lambda i: document_key(json.dumps(i), SEED))
    seen: set[str] = set()
    rest: dict[int, list[str]] = {}
    removed = 0
    for index in order:
        kept = []
        for paragraph in documents[index]:
            if normal(paragraph) not in seen:
                kept.append(paragraph)
            seen.add(normal(paragraph))
        if kept:
            rest[index] = kept
            removed += len(documents[index]) - len(kept)
    return rest, removed


def write(rows: dict[int, list[str]], path: Path, separator: str) -> Path:
    lines = [json.dumps({"id": i, "text": separator.join(text)}) for i, text in rows.items()]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def preprocess(path: Path, vocab: Path, output: Path, *more: str) -> int:
    where = ["--input", str(path), "--vocab", str(vocab), "--output", str(output)]
    how = ["--input-format", "jsonl", "--id-column", "id", "--eval-rate", "0.2", "--shards", "3"]
    return main(["preprocess", *where, *how, "--seed", str(SEED), "--max-seq-length", "32", *more])


def shards(manifest: Manifest) -> dict[str, Any]:
    return {split: [s.crc32c for s in each] for split, each in manifest.splits.items()}


@pytest.fixture(scope="module")
def documents() -> dict[int, list[str]]:
    return dict(enumerate(corpus(Random(1))))


@pytest.fixture(scope="module")
def dataset(
    documents: dict[int, list[str]], vocab_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("repeats")
    path = write(documents, folder / "in.jsonl", "\n \n\n")
    more = ["--deduplicate", "paragraphs", "--rejected", str(folder / "rejected")]
    assert preprocess(path, vocab_path, folder / "ds", *more) == 0
    return folder / "ds"


def test_a_dataset_equals_that_of_a_corpus_without_repeats(
    documents: dict[int, list[str]], dataset: Path, vocab_path: Path, tmp_path: Path
) -> None:
    rest, removed = without_repeats([*documents.values()])
    assert len(rest) == 29
    assert removed > 100
    path = write(rest, tmp_path / "in.jsonl", "\n\n")
    assert preprocess(path, vocab_path, tmp_path / "ds") == 0
    made, expected = read_manifest(dataset), read_manifest(tmp_path / "ds")
    assert shards(made) == shards(expected)
    assert made.dropped_documents == {"repeated_paragraphs": 1}
    assert made.changed_text == {"repeated_paragraphs": removed}
    assert sum(each["documents"] for each in made.statistics.values()) == 29


def test_the_emptied_document_is_among_the_rejected(dataset: Path) -> None:
    lines = [
        json.loads(line)
        for path in sorted((dataset.parent / "rejected").glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert [(line["id"], line["rule"], line["value"]) for line in lines] == [
        (4, "repeated_paragraphs", 3)
    ]
    assert lines[0]["excerpt"].startswith(NOTICE)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4], indirect=True)
def test_same_bytes_from_several_processes(
    workers: list[str],
    documents: dict[int, list[str]],
    dataset: Path,
    vocab_path: Path,
    tmp_path: Path,
) -> None:
    path = write(dict([*documents.items()][::-1]), tmp_path / "in.jsonl", "\n \n\n")
    more = ["--deduplicate", "paragraphs", *workers]
    assert preprocess(path, vocab_path, tmp_path / "ds", *more) == 0
    assert contents(tmp_path / "ds") == contents(dataset)


def test_lines_are_compared_by_line(
    documents: dict[int, list[str]], vocab_path: Path, tmp_path: Path
) -> None:
    """A line break ends a sentence: the same records as if each line were a paragraph."""
    rest, removed = without_repeats([*documents.values()])
    by_line = write(documents, tmp_path / "lines.jsonl", "\n")
    by_paragraph = write(rest, tmp_path / "paragraphs.jsonl", "\n\n")
    assert preprocess(by_line, vocab_path, tmp_path / "a", "--deduplicate", "lines") == 0
    assert preprocess(by_paragraph, vocab_path, tmp_path / "b") == 0
    made = read_manifest(tmp_path / "a")
    assert shards(made) == shards(read_manifest(tmp_path / "b"))
    assert made.dropped_documents == {"repeated_lines": 1}
    assert made.changed_text == {"repeated_lines": removed}


def test_paragraphs_of_near_duplicates_are_not_kept_there(vocab_path: Path, tmp_path: Path) -> None:
    """Near-duplicates and documents of one id go first, and no paragraph is lost with them."""
    texts = random_texts(12, seed=5)
    rng = Random(2)
    copies = [changed(text, 0.01, rng) for text in texts for _ in range(2)]
    own = [f"{text}\n\n{NOTICE}" for text in random_texts(20, seed=6)]
    rows = [*enumerate([*texts, *copies, *own]), (3, texts[3]), (3, "Another text of this id.")]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(json.dumps({"id": i, "text": text}) for i, text in rows))
    for value in ("near", "near+paragraphs"):
        more = ["--deduplicate", value]
        assert preprocess(path, vocab_path, tmp_path / value, *more) == 0
    near, both = (read_manifest(tmp_path / value) for value in ("near", "near+paragraphs"))
    assert near.dropped_documents["near_duplicate"] >= 20
    assert near.dropped_documents == both.dropped_documents
    assert both.changed_text == {"repeated_paragraphs": 19}
    for manifest in (near, both):
        used = sum(each["documents"] for each in manifest.statistics.values())
        assert used + sum(manifest.dropped_documents.values()) == len(rows)
    total: Counter[str] = Counter()
    for manifest, sign in ((near, 1), (both, -1)):
        for each in manifest.statistics.values():
            total.update({name: sign * count for name, count in each.items()})
    assert total["sentences"] == 2 * 19


def test_documents_that_become_too_short(vocab_path: Path, tmp_path: Path) -> None:
    rows = {index: [NOTICE, f"Number {index}. " + "and so on " * 5] for index in range(12)}
    rows |= {20: [NOTICE, "One."], 21: [NOTICE, "Two!"]}
    path = write(rows, tmp_path / "in.jsonl", "\n\n")
    more = ["--deduplicate", "paragraphs", "--min-document-pieces", "8"]
    assert preprocess(path, vocab_path, tmp_path / "ds", *more) == 0
    assert read_manifest(tmp_path / "ds").dropped_documents == {"too_short": 2}


def test_text_of_documents_that_become_too_short_stays_in_others(
    vocab_path: Path, tmp_path: Path
) -> None:
    """A paragraph was lost when the document that kept it became too short and was left out."""
    order = sorted(range(20), key=lambda i: document_key(json.dumps(i), SEED))
    shared, other, third = (f"The {word} of the old town was closed." for word in "abc")
    own = {index: f"Number {index}. " + "and so on " * 5 for index in order}
    rows = {index: [text] for index, text in own.items()}
    rows[order[0]] = [own[order[0]], shared]
    rows[order[1]] = [shared, other]  # too short without the first
    rows[order[2]] = [other, own[order[2]]]
    rows[order[3]] = [shared, third]
    rows[order[4]] = [shared, third, "It is."]  # long enough if the one before is left out
    rest = {index: text for index, text in rows.items() if index not in (order[1], order[3])}
    rest[order[4]] = rows[order[4]][1:]
    path = write(rows, tmp_path / "in.jsonl", "\n\n")
    more = ["--deduplicate", "paragraphs", "--min-document-pieces", "10"]
    assert preprocess(path, vocab_path, tmp_path / "ds", *more) == 0
    path = write(rest, tmp_path / "rest.jsonl", "\n\n")
    assert preprocess(path, vocab_path, tmp_path / "rest") == 0
    made = read_manifest(tmp_path / "ds")
    assert made.dropped_documents == {"repeated_paragraphs": 1, "too_short": 1}
    assert made.changed_text == {"repeated_paragraphs": 1}
    assert shards(made) == shards(read_manifest(tmp_path / "rest"))


def test_text_of_a_document_alone_in_its_shard_stays_in_others(tmp_path: Path) -> None:
    """A paragraph was lost: each of two shards of documents set aside was to keep it."""
    words = [2 * letter for letter in "abcdefghijklmnopqrstuvwxyz"]
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    numbers = {753: [12, 1, 3, 15], 126: [9, 12, 10], 878: [14, 11, 3, 13], 579: [8, 12, 5, 10, 13]}
    numbers |= {1000: [20], 1004: [21], 1005: [22], 1008: [23], 1010: [24], 1012: [25]}
    rows = {index: [" ".join([words[n]] * n) for n in each] for index, each in numbers.items()}
    # Document 878 would be alone in its shard, so another one keeps what it has in common with it.
    rest = {index: text for index, text in rows.items() if index not in (126, 878)}
    rest[579] = [text for text in rows[579] if text not in rows[753]]
    assert len(rest[579]) == 4
    made, expected = tmp_path / "ds", tmp_path / "rest"
    how = ["--shards", "4", "--eval-rate", "0", "--masks", "dynamic", "--seed", "12345"]
    how += ["--min-document-pieces", "20"]
    path = write(rows, tmp_path / "in.jsonl", "\n\n")
    assert preprocess(path, vocab, made, *how, "--deduplicate", "paragraphs") == 0
    path = write(rest, tmp_path / "rest.jsonl", "\n\n")
    assert preprocess(path, vocab, expected, *how) == 0
    manifest = read_manifest(made)
    assert shards(manifest) == shards(read_manifest(expected))
    assert manifest.dropped_documents == {"no_other_document": 1, "too_short": 1}


def test_no_text_is_lost_in_one_of_several_lengths(vocab_path: Path, tmp_path: Path) -> None:
    """Its document was used in short records, but had no two sentences for `sop` in long ones."""
    order = sorted(range(20), key=lambda i: document_key(json.dumps(i), SEED))
    shared = "The old man went out and saw that the sea was not there any more."
    rest = {index: [f"Number {index} is here.", f"It is {index}."] for index in order[1:]}
    rest[order[1]] = [shared, *rest[order[1]]]
    path = write({order[0]: [shared], **rest}, tmp_path / "in.jsonl", "\n\n")
    how = ["--pairing", "sop", "--max-seq-length", "16", "64"]
    assert preprocess(path, vocab_path, tmp_path / "ds", *how, "--deduplicate", "paragraphs") == 0
    path = write(rest, tmp_path / "rest.jsonl", "\n\n")
    assert preprocess(path, vocab_path, tmp_path / "rest", *how) == 0
    for length in ("16", "64"):
        made = read_manifest(tmp_path / "ds" / length)
        assert shards(made) == shards(read_manifest(tmp_path / "rest" / length))
        assert made.dropped_documents == {"too_short": 1}
        assert made.changed_text == {}


def test_a_corpus_of_nothing_but_repeats(
    vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write({1: [NOTICE], 2: [NOTICE, RULES], 3: [RULES]}, tmp_path / "in.jsonl", "\n\n")
    more = ["--deduplicate", "paragraphs", "--shards", "1", "--eval-rate", "0"]
    assert preprocess(path, vocab_path, tmp_path / "ds", *more) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "one of 3 documents is left (2 by repeated_paragraphs)" in error


def test_lines_format_has_no_paragraphs(
    vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.txt").write_text(f"A fox.\n{NOTICE}\n\n{NOTICE}\nAn owl.\n\nA hen.\nA cow.\n")
    where = ["--input", str(tmp_path / "in.txt"), "--vocab", str(vocab_path)]
    how = ["--input-format", "lines", "--output", str(tmp_path / "ds"), "--shards", "1"]
    run = ["preprocess", *where, *how, "--eval-rate", "0", "--deduplicate"]
    assert main([*run, "paragraphs"]) == 2
    assert "compare lines" in capsys.readouterr().err
    assert main([*run, "lines"]) == 0
    assert read_manifest(tmp_path / "ds").changed_text == {"repeated_lines": 1}
