"""Near-duplicates: planted copies of texts, found by the job and by comparing all pairs."""

import hashlib
import itertools
import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from clozeline.main import main
from pipeline.configs import PreprocessConfig
from pipeline.corpus.clusters import NODE, all_but_smallest
from pipeline.corpus.minhash import Bands
from pipeline.errors import InputError
from pipeline.jobs import near_duplicates
from pipeline.jobs.beam_options import running_pipeline
from pipeline.jobs.near_duplicates import NearDuplicates, banded
from pipeline.jobs.shuffle import GroupByShard, count_parts
from pipeline.manifest import Manifest, read_manifest
from pipeline.records.deduplication import node_of
from pipeline.records.document import Document
from pipeline.records.shard import document_key
from tests.pipeline.jobs.on_engines import contents
from tests.pipeline.jobs.random_texts import changed, random_texts


def planted(texts: list[str], rng: Random) -> list[str]:
    """The texts, and up to three copies of some of them."""
    copies = [
        changed(text, rng.choice([0.002, 0.005, 0.01, 0.015]), rng)
        for text in texts
        for _ in range(rng.choice([0, 0, 1, 3]))
    ]
    mixed = texts + copies
    rng.shuffle(mixed)
    return mixed


def ngrams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def similarities(texts: list[str]) -> np.ndarray:
    """The exact Jaccard similarity of all pairs."""
    sets = [ngrams(text) for text in texts]
    similar = np.zeros((len(texts), len(texts)))
    for one, a in enumerate(sets):
        for other, b in enumerate(sets[:one]):
            similar[one, other] = similar[other, one] = len(a & b) / len(a | b)
    return similar


def documents_of(texts: Iterable[str]) -> list[Document]:
    return [(document_key(text, 9), b"\1\0", b"\2\0\0\0", b"", b"") for text in texts]


def write_nodes(nodes: bytes, folder: str) -> None:
    (Path(folder) / f"{uuid.uuid4().hex}.nodes").write_bytes(nodes)


def marked(texts: list[str], folder: Path, *, parts: int = 3, batches: int = 7) -> set[int]:
    """Indices of the texts that the steps of the job mark."""
    folder.mkdir(exist_ok=True)
    indices = {node_of(document): index for index, document in enumerate(documents_of(texts))}
    with running_pipeline(PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        _ = (
            pipeline
            | beam.Create([texts[first::batches] for first in range(batches)])
            | beam.FlatMap(lambda each: banded(documents_of(each), each, Bands(14, 8), parts))
            | NearDuplicates(GroupByShard(str(folder), through_files=True), Bands(14, 8), parts)
            | beam.Map(write_nodes, str(folder))
        )
    nodes = b"".join(path.read_bytes() for path in folder.glob("*.nodes"))
    return {indices[nodes[start : start + 24]] for start in range(0, len(nodes), 24)}


def check_against_all_pairs(texts: list[str], removed: set[int]) -> None:
    """Recall of documents to drop where J >= 0.8; every dropped one has a similar document left."""
    similar = similarities(texts)
    names = np.frombuffer(b"".join(map(node_of, documents_of(texts))), NODE)
    pairs = np.argwhere(np.triu(similar >= 0.8))
    expected = {*all_but_smallest(names[pairs]).tolist()}
    found = {names[index] for index in removed}
    assert len(expected) > 0.3 * len(texts)
    assert len(found & expected) >= 0.95 * len(expected)
    right = [index for index in removed if similar[index].max() >= 0.8]
    assert len(right) >= 0.99 * len(removed)


def test_planted_copies_are_found(tmp_path: Path) -> None:
    texts = planted(random_texts(80), Random(1))
    check_against_all_pairs(texts, marked(texts, tmp_path))


@pytest.mark.data
@pytest.mark.skipif("CLOZELINE_DATA" not in os.environ, reason="CLOZELINE_DATA names no folder")
def test_planted_copies_in_books_are_found(tmp_path: Path) -> None:
    books = sorted(Path(os.environ["CLOZELINE_DATA"], "books").glob("*.md"))[:4]
    texts = []
    for book in books:
        text = book.read_text(encoding="utf-8")[5000:65_000]
        texts += [text[start : start + 2000] for start in range(0, len(text) - 2000, 2000)]
    texts = planted(texts, Random(2))
    check_against_all_pairs(texts, marked(texts, tmp_path))


def chain(length: int) -> list[str]:
    """Documents each of which resembles the one before and the one after it, and no other."""
    rng = Random(5)
    words = [f"w{rng.randrange(10**6)}" for _ in range(400 + 12 * length)]
    return [" ".join(words[12 * i : 12 * i + 400]) for i in range(length)]


@pytest.mark.parametrize("rounds", [0, near_duplicates.ROUNDS])
def test_a_long_chain_is_one_cluster(
    rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_duplicates, "ROUNDS", rounds)
    texts = chain(300)
    similar = [len(a & b) / len(a | b) for a, b in itertools.pairwise(map(ngrams, texts))]
    assert min(similar) > 0.9
    smallest = min(range(300), key=lambda index: document_key(texts[index], 9))
    assert marked(texts, tmp_path) == {*range(300)} - {smallest}


def test_marks_depend_neither_on_partitions_nor_on_batches(tmp_path: Path) -> None:
    texts = [*planted(random_texts(60), Random(4)), "", "...", "a b", "a b", "c"]
    usual = marked(texts, tmp_path / "3")
    assert usual
    assert marked(texts[::-1], tmp_path / "1", parts=1, batches=1) == {
        len(texts) - 1 - index for index in usual
    }
    assert marked(texts, tmp_path / "8", parts=8, batches=30) == usual


def test_nothing_is_marked_without_near_duplicates(tmp_path: Path) -> None:
    assert marked(random_texts(20), tmp_path) == set()


def test_a_partition_for_64_mb() -> None:
    assert [count_parts({"a": size, "b": 1}) for size in (0, 1 << 26, 1 << 28)] == [1, 2, 5]


def preprocess(corpus: Path, vocab: Path, output: Path, *more: str) -> int:
    where = ["--input", str(corpus), "--vocab", str(vocab), "--output", str(output)]
    how = ["--input-format", "jsonl", "--shards", "2", "--eval-rate", "0.2", "--seed", "9"]
    return main(["preprocess", *where, *how, "--max-seq-length", "32", *more])


def write(texts: Iterable[str], path: Path) -> Path:
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return planted(random_texts(40, seed=6), Random(7))


@pytest.fixture(scope="module")
def dataset(texts: list[str], vocab_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("near")
    corpus = write([*texts, texts[3], texts[4]], folder / "in.jsonl")
    more = ["--deduplicate", "near", "--rejected", str(folder / "rejected")]
    assert preprocess(corpus, vocab_path, folder / "ds", *more) == 0
    return folder / "ds"


def shards(manifest: Manifest) -> dict[str, Any]:
    return {split: [s.crc32c for s in each] for split, each in manifest.splits.items()}


def test_a_dataset_equals_that_of_a_corpus_without_near_duplicates(
    texts: list[str], dataset: Path, vocab_path: Path, tmp_path: Path
) -> None:
    removed = marked(texts, tmp_path / "marked")
    kept = [text for index, text in enumerate(texts) if index not in removed]
    corpus = write(kept, tmp_path / "kept.jsonl")
    assert preprocess(corpus, vocab_path, tmp_path / "ds") == 0
    made, expected = read_manifest(dataset), read_manifest(tmp_path / "ds")
    assert shards(made) == shards(expected)
    assert made.dropped_documents == {"duplicate": 2, "near_duplicate": len(removed)}
    assert expected.dropped_documents == {}


def test_near_duplicates_are_written_with_the_rejected_documents(
    texts: list[str], dataset: Path, tmp_path: Path
) -> None:
    removed = marked(texts, tmp_path)
    lines = [
        json.loads(line)
        for path in sorted((dataset.parent / "rejected").glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    rejected = [line["id"] for line in lines if line["rule"] == "near_duplicate"]
    ids = [hashlib.sha256(texts[index].encode()).hexdigest() for index in removed]
    assert sorted(rejected) == sorted(ids)
    assert {line["rule"] for line in lines} == {"near_duplicate", "duplicate"}
    assert {line["threshold"] for line in lines} == {0.719, None}  # 14 ** (-1 / 8)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4], indirect=True)
def test_same_bytes_from_several_processes(
    workers: list[str], texts: list[str], dataset: Path, vocab_path: Path, tmp_path: Path
) -> None:
    corpus = write([*texts, texts[3], texts[4]][::-1], tmp_path / "in.jsonl")
    more = ["--deduplicate", "near", *workers]
    assert preprocess(corpus, vocab_path, tmp_path / "ds", *more) == 0
    assert contents(tmp_path / "ds") == contents(dataset)


def texts_left(
    rows: list[tuple[int, str]], vocab: Path, folder: Path, *flags: str
) -> tuple[set[str], Counter[str]]:
    """The distinct texts of documents that a job uses, and the documents dropped by rule."""
    corpus = folder / "in.jsonl"
    corpus.write_text("\n".join(json.dumps({"id": i, "text": text}) for i, text in rows))
    more = ["--id-column", "id", "--shards", "1", "--eval-rate", "0", *flags]
    more += ["--rejected", str(folder / "rejected")]
    assert preprocess(corpus, vocab, folder / "ds", *more) == 0
    left = Counter((i, text[:200]) for i, text in rows)
    for path in (folder / "rejected").glob("*.jsonl"):
        for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            left[line["id"], line["excerpt"]] -= 1
    return {text for (_, text), count in left.items() if count}, Counter(
        read_manifest(folder / "ds").dropped_documents
    )


@pytest.mark.parametrize("deduplicate", ["near", "near+paragraphs", "near+lines"])
def test_a_document_left_out_because_of_its_id_is_not_the_one_kept_of_its_cluster(
    deduplicate: str, vocab_path: Path, tmp_path: Path
) -> None:
    """Of texts with an id of their own, one copy stays, whichever document has another's id."""
    rng = Random(5)
    rows: list[tuple[int, str]] = []
    owned: list[set[str]] = []
    for number, text in enumerate(random_texts(40, seed=8)):
        copies = [changed(text, 0.003, rng) for _ in range(3)]
        rows.append((number, f"Another text of number {number}. " + random_texts(1, number)[0]))
        rows += [(number, text), *((100 * number + 50 + i, copy) for i, copy in enumerate(copies))]
        owned.append({each[:200] for each in [text, *copies]})
    # Documents without a word are in no cluster, and share ids, too.
    rows += [(number, "... !") for number in range(20)]
    left, dropped = texts_left(rows, vocab_path, tmp_path, "--deduplicate", deduplicate)
    assert all(each & left for each in owned)
    assert dropped["duplicate"] == 40 + 20
    assert len(rows) - dropped.total() == len({i for i, _ in rows}) - dropped["near_duplicate"]


@pytest.mark.parametrize("deduplicate", ["documents", "near"])
def test_a_document_too_short_for_its_pairs_is_not_the_one_kept(
    deduplicate: str, vocab_path: Path, tmp_path: Path
) -> None:
    """Of a text in one sentence and the same in two, that of two is used: `sop` needs two."""
    rows: list[tuple[int, str]] = []
    for number in range(24):
        words = [f"w{100 * number + i}" for i in range(30)]
        of_one, of_two = " ".join(words), " ".join(words[:15]) + ". " + " ".join(words[15:])
        other = number if deduplicate == "documents" else 100 + number
        rows += [(number, f"{of_one}."), (other, f"{of_two}.".replace(". w", ". W"))]
    more = ["--deduplicate", deduplicate, "--pairing", "sop", "--max-seq-length", "256"]
    left, dropped = texts_left(rows, vocab_path, tmp_path, *more)
    assert left == {text for _, text in rows[1::2]}
    assert dropped == {"too_short": 24}


@pytest.mark.parametrize("flags", [["--minhash-bands", "3"], ["--deduplicate", "--minhash-rows=3"]])
def test_minhash_flags_without_near(
    flags: list[str], vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write(["A fox. An owl."], tmp_path / "in.jsonl")
    assert preprocess(corpus, vocab_path, tmp_path / "ds", *flags) == 2
    assert "--deduplicate" in capsys.readouterr().err


def test_the_config_refuses_unknown_values() -> None:
    known: dict[str, Any] = {"input": ("a",), "vocab": Path("v"), "output": "o"}
    for value in (False, "all"):
        with pytest.raises(InputError, match=r"`deduplicate` .*: expected one of none, documents"):
            PreprocessConfig(**known, deduplicate=value)
    with pytest.raises(InputError, match="`minhash_rows` 65"):
        PreprocessConfig(**known, minhash_rows=65)
