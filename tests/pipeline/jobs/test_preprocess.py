"""The Beam job as a whole: bytes, counts, dropped documents, files that remain."""

import contextlib
import errno
import gzip
import json
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from clozeline.main import main
from pipeline.corpus.readers import EMPTY, INVALID_JSON, NO_TEXT
from pipeline.corpus.remarks import INVALID_UTF8
from pipeline.errors import InputError
from pipeline.inspection import text_pieces
from pipeline.jobs.preprocess import write_records
from pipeline.jobs.tally import Tally
from pipeline.manifest import MANIFEST, read_manifest
from pipeline.records.shard import document_key
from pipeline.schema import IS_RANDOM, NO_OTHER_DOCUMENT, SPECIAL_TOKENS
from pipeline.storage.tfrecords import RecordFile
from pipeline.text.sentences import split_sentences
from pipeline.text.tokenizer import Vocabulary, build_tokenizer
from tests.conftest import make_sentences
from tests.fork_server import CLOZELINE, FORKS
from tests.pipeline.records.made_datasets import records

SETTINGS = ["--max-seq-length", "32", "--max-predictions", "5", "--duplicates", "2", "--seed", "9"]


def preprocess(corpus: Path | str, vocab: Path, output: Path, *more: str) -> int:
    where = ["--input", str(corpus), "--vocab", str(vocab), "--output", str(output)]
    how = [*SETTINGS, "--shards", "2", "--eval-rate", "0.2"]
    return main(["preprocess", *where, *how, *more])


def shard_bytes(dataset: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(dataset.iterdir())}


@pytest.fixture(scope="module")
def dataset(prose_corpus: Path, vocab_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("dataset") / "ds"
    assert preprocess(prose_corpus / "*.txt", vocab_path, output) == 0
    return output


def document_pieces(corpus: Path, vocab: Path) -> dict[bytes, list[int]]:
    vocabulary = Vocabulary.read(vocab)
    tokenizer = build_tokenizer(vocabulary.pieces, lower_case=True)
    pieces = {}
    for path in corpus.glob("*.txt"):
        text = path.read_text(encoding="utf-8")
        ids = tokenizer.tokenize(split_sentences(text)).flat_values.numpy().tolist()
        pieces[document_key(text, 9)] = ids
    return pieces


def test_directory_holds_manifest_vocabulary_and_shards(dataset: Path) -> None:
    assert sorted(path.name for path in dataset.iterdir()) == [
        "eval-00000-of-00001.tfrecord",
        "manifest.json",
        "train-00000-of-00002.tfrecord",
        "train-00001-of-00002.tfrecord",
        "vocab.txt",
    ]


def test_the_manifest_names_streams_and_where_records_begin(dataset: Path) -> None:
    manifest = read_manifest(dataset)
    assert manifest.streams == 64
    assert [shard.offsets for shard in manifest.splits["train"]] == [(0,), (0,)]


def test_a_shard_says_where_its_records_begin(tmp_path: Path) -> None:
    records = [bytes(number % 7) for number in range(1100)]
    blocks = [records[:700], records[700:]]
    path = tmp_path / "shard"
    _, _, offsets = write_records(str(path), blocks, "none", Tally(None))
    before = [sum(16 + len(record) for record in records[:first]) for first in (0, 512, 1024)]
    assert list(offsets) == before  # 8 bytes of length, two checksums of 4
    assert RecordFile(path, "", offsets).read(1024, 76) == records[1024:]
    assert write_records(str(path), blocks, "gzip", Tally(None))[2] == ()


def test_same_seed_same_bytes_wherever_the_files_stand(
    dataset: Path, prose_corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    renamed = tmp_path / "other"
    renamed.mkdir()
    for index, path in enumerate(sorted(prose_corpus.glob("*.txt"), reverse=True)):
        (renamed / f"{index:03d}.text").write_bytes(path.read_bytes())
    assert preprocess(renamed / "*", vocab_path, tmp_path / "ds") == 0
    assert shard_bytes(tmp_path / "ds") == shard_bytes(dataset)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4], indirect=True)
def test_same_bytes_from_several_processes(
    workers: list[str], dataset: Path, prose_corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    assert preprocess(prose_corpus / "*.txt", vocab_path, tmp_path / "ds", *workers) == 0
    assert shard_bytes(tmp_path / "ds") == shard_bytes(dataset)


def test_a_killed_job_starts_again(
    dataset: Path, prose_corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    output = tmp_path / "ds"
    where = ["--input", prose_corpus / "*.txt", "--vocab", vocab_path, "--output", output]
    how = [*SETTINGS, "--shards", "2", "--eval-rate", "0.2"]
    command = [CLOZELINE, "preprocess", *where, *how]
    job = FORKS.popen(command, stderr=subprocess.DEVNULL)
    while not list(output.glob("_temporary-*/documents-*")):
        assert job.poll() is None
        time.sleep(0.05)  # leave the processor to the job
    job.kill()
    assert job.wait() == -signal.SIGKILL
    assert list(output.glob("_temporary-*/*"))
    with pytest.raises(InputError, match=r"manifest\.json"):
        read_manifest(output)
    assert preprocess(prose_corpus / "*.txt", vocab_path, output) == 0
    assert shard_bytes(output) == shard_bytes(dataset)


def test_another_seed_gives_other_bytes(
    dataset: Path, prose_corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    assert preprocess(prose_corpus / "*.txt", vocab_path, tmp_path / "ds", "--seed", "10") == 0
    assert shard_bytes(tmp_path / "ds") != shard_bytes(dataset)


def test_manifest_counts_are_right(dataset: Path) -> None:
    manifest = read_manifest(dataset)
    assert manifest.dropped_documents == {}
    assert sum(total["documents"] for total in manifest.statistics.values()) == 60
    for split in ("train", "eval"):
        arrays, total = records(dataset, split), manifest.statistics[split]
        assert manifest.examples(split) == total["examples"] == len(arrays["input_ids"])
        assert total["real_positions"] == arrays["input_mask"].sum()
        assert total["predictions"] == arrays["masked_lm_weights"].sum()
        assert total["random_next"] == (arrays["next_sentence_labels"] == IS_RANDOM).sum()
    assert manifest.settings["seed"] == 9
    assert manifest.max_seq_length == 32


def test_text_can_be_reconstructed_from_the_records(
    dataset: Path, prose_corpus: Path, vocab_path: Path
) -> None:
    """Every A of the records is a stretch of some document, once the labels are put back."""
    vocabulary = Vocabulary.read(vocab_path)
    arrays = records(dataset, "train")
    texts = [
        " ".join(map(str, ids)) + " " for ids in document_pieces(prose_corpus, vocab_path).values()
    ]
    for row in range(len(arrays["input_ids"])):
        one = {name: values[row : row + 1] for name, values in arrays.items()}
        for segment in (0, 1):
            part = {**one, "input_mask": one["input_mask"] * (one["segment_ids"] == segment)}
            ids = text_pieces(part, vocabulary).tolist()
            assert any(" ".join(map(str, ids)) + " " in text for text in texts)


def test_no_document_is_in_both_splits(dataset: Path, prose_corpus: Path, vocab_path: Path) -> None:
    manifest = read_manifest(dataset)
    keys = document_pieces(prose_corpus, vocab_path)
    held_out = {key for key in keys if int.from_bytes(key[:8], "big") / 2**64 < 0.2}
    assert manifest.statistics["eval"]["documents"] == len(held_out) > 2
    assert manifest.statistics["eval"]["pieces"] == sum(len(keys[key]) for key in held_out)
    assert manifest.statistics["train"]["pieces"] == sum(
        len(ids) for key, ids in keys.items() if key not in held_out
    )


def test_layout_of_every_record(dataset: Path, vocab_path: Path) -> None:
    vocabulary = Vocabulary.read(vocab_path)
    arrays = records(dataset, "train")
    for ids, mask, segments, positions, weights in zip(
        *(arrays[name] for name in (
            "input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_weights",
        )), strict=True,
    ):  # fmt: skip
        length = mask.sum()
        seps = np.flatnonzero(ids == vocabulary.sep_id)
        assert ids[0] == vocabulary.cls_id
        assert len(seps) == 2
        assert seps[1] == length - 1
        assert (mask[:length] == 1).all()
        assert (ids[length:] == vocabulary.pad_id).all()
        assert segments.tolist() == [int(seps[0] < i <= seps[1]) for i in range(32)]
        assert not {0, *seps} & set(positions[weights == 1].tolist())


def test_masks_never_put_a_special_token_but_mask(dataset: Path, vocab_path: Path) -> None:
    vocabulary = Vocabulary.read(vocab_path)
    arrays = records(dataset, "train")
    row, slot = np.nonzero(arrays["masked_lm_weights"])
    there = Counter(arrays["input_ids"][row, arrays["masked_lm_positions"][row, slot]].tolist())
    special = {vocabulary.ids[token] for token in SPECIAL_TOKENS} - {vocabulary.mask_id}
    assert not special & set(there)
    assert 0.7 < there[vocabulary.mask_id] / there.total() < 0.9


def test_whole_words(prose_corpus: Path, tmp_path: Path) -> None:
    vocab = tmp_path / "v.txt"
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*SPECIAL_TOKENS, ".", *letters, *(f"##{letter}" for letter in letters)]
    vocab.write_text("\n".join(pieces) + "\n")
    more = ["--masking", "whole-word", "--max-predictions", "9", "--mask-rate", "0.3"]
    assert preprocess(prose_corpus / "*.txt", vocab, tmp_path / "ds", *more) == 0
    arrays = records(tmp_path / "ds", "train")
    for row in range(len(arrays["input_ids"])):
        used = arrays["masked_lm_weights"][row] == 1
        ids, chosen = arrays["input_ids"][row].copy(), arrays["masked_lm_positions"][row][used]
        ids[chosen] = arrays["masked_lm_ids"][row][used]
        for position in chosen:
            inside = position + 1 < 32 and pieces[ids[position + 1]].startswith("##")
            assert not inside or position + 1 in chosen
    assert read_manifest(tmp_path / "ds").settings["masking"] == "whole-word"


def test_dropped_documents_are_counted(vocab_path: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a").write_text("The fox sees the owl. The owl sees the fox.")
    (corpus / "b").write_text("The boat fears the storm. The sailor loves the boat.")
    (corpus / "c").write_bytes(b"\xff\xfe bad")
    (corpus / "d").write_text(" \n\n ")
    (corpus / "e").write_text("\x00\x01")  # a sentence without a piece
    (corpus / "f").write_text("")
    more = ["--shards=1", "--eval-rate=0", "--max-unreadable-rate=0.2"]
    assert preprocess(corpus / "*", vocab_path, tmp_path / "ds", *more) == 0
    manifest = read_manifest(tmp_path / "ds")
    assert manifest.dropped_documents == {EMPTY: 3, INVALID_UTF8: 1}
    assert manifest.statistics["train"]["documents"] == 2


def test_lines_format(vocab_path: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "lines.txt"
    corpus.write_text("The fox sees the owl.\nThe owl hears.\n\n\nThe boat.\nThe tide passes.\n")
    more = ["--input-format", "lines", "--shards", "1", "--eval-rate", "0"]
    assert preprocess(corpus, vocab_path, tmp_path / "ds", *more) == 0
    total = read_manifest(tmp_path / "ds").statistics["train"]
    assert (total["documents"], total["sentences"], total["pieces"]) == (2, 4, 6 + 4 + 3 + 4)


@pytest.fixture(scope="module")
def rows(prose_corpus: Path) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(prose_corpus.glob("*.txt"))]


def tfrecords(dataset: Path) -> dict[str, bytes]:
    return {name: data for name, data in shard_bytes(dataset).items() if "tfrecord" in name}


def test_json_lines_give_the_same_records(
    rows: list[str], dataset: Path, vocab_path: Path, tmp_path: Path
) -> None:
    lines = [json.dumps({"id": index, "body": text}) for index, text in enumerate(rows)]
    bad = ["{", '{"id": 1}', "", '{"body": ""}']
    corpus = tmp_path / "corpus.jsonl.gz"
    corpus.write_bytes(gzip.compress("\n".join(lines[:9] + bad + lines[9:]).encode()))
    more = ["--input-format", "jsonl", "--text-column", "body"]
    assert preprocess(corpus, vocab_path, tmp_path / "ds", *more) == 0
    assert tfrecords(tmp_path / "ds") == tfrecords(dataset)
    manifest = read_manifest(tmp_path / "ds")
    assert manifest.dropped_documents == {EMPTY: 1, INVALID_JSON: 1, NO_TEXT: 1}


def test_parquet_gives_the_same_records(
    rows: list[str], dataset: Path, vocab_path: Path, tmp_path: Path
) -> None:
    ids = [*range(len(rows)), 99]
    columns = pyarrow.table({"id": ids, "body": [*rows, None]})
    pyarrow.parquet.write_table(columns, tmp_path / "corpus.parquet", row_group_size=7)
    more = ["--input-format", "parquet", "--text-column", "body"]
    assert preprocess(tmp_path / "*.parquet", vocab_path, tmp_path / "ds", *more) == 0
    assert tfrecords(tmp_path / "ds") == tfrecords(dataset)
    assert read_manifest(tmp_path / "ds").dropped_documents == {EMPTY: 1}


def test_vocabulary_of_a_parquet_corpus(rows: list[str], tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), tmp_path / "corpus.parquet")
    output = tmp_path / "v.txt"
    arguments = ["--input", str(tmp_path / "corpus.parquet"), "--input-format", "parquet"]
    assert main(["vocab", *arguments, "--output", str(output), "--size", "90"]) == 0
    assert len(Vocabulary.read(output)) == 90


@pytest.mark.parametrize(
    ("column", "words"),
    [("txet", ["--text-column txet", "has only id, text"]), ("id", ["holds int64, not text"])],
)
def test_parquet_without_the_column(
    column: str,
    words: list[str],
    vocab_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = pyarrow.table({"id": [1], "text": ["A fox."]})
    pyarrow.parquet.write_table(table, tmp_path / "c.parquet")
    more = ["--input-format", "parquet", "--text-column", column]
    code = preprocess(tmp_path / "c.parquet", vocab_path, tmp_path / "ds", *more)
    expect_error(capsys, code, "c.parquet", *words)


def test_not_a_parquet_file(
    vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.parquet").write_text("A fox sees the owl.")
    code = preprocess(tmp_path / "c.parquet", vocab_path, tmp_path / "ds", "--input-format=parquet")
    expect_error(capsys, code, "c.parquet: not a Parquet file")


def expect_error(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> None:
    error = capsys.readouterr().err
    last = error.strip().splitlines()[-1]
    assert code == 2
    assert last.startswith("clozeline: ")
    assert "Traceback" not in error
    for word in words:
        assert word in last


def test_no_match(vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = preprocess(tmp_path / "none*.txt", vocab_path, tmp_path / "ds")
    expect_error(capsys, code, "--input", "none*.txt: no file matches")
    assert not (tmp_path / "ds").exists()


def test_empty_corpus(vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").touch()
    code = preprocess(tmp_path / "a.txt", vocab_path, tmp_path / "ds")
    expect_error(capsys, code, "--input", "every file is empty")
    (tmp_path / "a.txt").write_text("\n \n")
    code = preprocess(tmp_path / "a.txt", vocab_path, tmp_path / "ds")
    expect_error(capsys, code, "--input", "the corpus is empty (1 empty)")
    assert not (tmp_path / "ds").exists()


def test_one_document(vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("The fox sees. The owl hears.")
    code = preprocess(tmp_path / "a.txt", vocab_path, tmp_path / "ds", "--eval-rate", "0")
    expect_error(capsys, code, "a corpus of one document", "--input-format lines")
    assert not (tmp_path / "ds").exists()


def test_a_runner_that_beam_lacks(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = preprocess(prose_corpus / "*", vocab_path, tmp_path / "ds", "--runner=Nope")
    expect_error(capsys, code, "Nope")
    assert not (tmp_path / "ds").exists()


def test_a_folder_as_input(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = preprocess(prose_corpus, vocab_path, tmp_path / "ds")
    expect_error(capsys, code, f"{prose_corpus}: is a folder; give its files: {prose_corpus}/*")


def test_a_file_as_output(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ds").write_text("mine")
    for output in (tmp_path / "ds", tmp_path / "ds" / "inside"):
        code = preprocess(prose_corpus / "*", vocab_path, output)
        expect_error(capsys, code, f"--output {output}", f"{tmp_path}/ds is a file; name a folder")
    assert (tmp_path / "ds").read_text() == "mine"


def test_more_shards_than_documents(
    vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("The fox sees. The owl hears.")
    (tmp_path / "b.txt").write_text("The boat passes.")
    more = ["--shards", "5000", "--eval-rate", "0"]
    code = preprocess(tmp_path / "*.txt", vocab_path, tmp_path / "ds", *more)
    expect_error(capsys, code, "--shards 5000: too many for 2 documents", "use fewer --shards")


def test_documents_of_one_text(
    vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abc":
        (tmp_path / name).write_text("The fox sees. The owl hears.")
    more = ["--shards", "1", "--eval-rate", "0"]
    code = preprocess(tmp_path / "[abc]", vocab_path, tmp_path / "ds", *more)
    expect_error(capsys, code, "no training pair from 3 documents: all have the same text")


def test_documents_alone_in_their_shard_are_counted(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preprocess(prose_corpus / "*", vocab_path, tmp_path / "ds", "--shards", "25") == 0
    manifest = read_manifest(tmp_path / "ds")
    used = sum(total["documents"] for total in manifest.statistics.values())
    assert manifest.dropped_documents[NO_OTHER_DOCUMENT] == 60 - used > 0
    warning = " ".join(capsys.readouterr().err.split())
    assert f"warning: {60 - used} of 60 documents are alone in their shard" in warning
    assert "use fewer --shards" in warning


def test_dataset_is_not_replaced_unasked(
    dataset: Path, prose_corpus: Path, vocab_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = shard_bytes(dataset)
    code = preprocess(prose_corpus / "*.txt", vocab_path, dataset)
    expect_error(capsys, code, "already holds a dataset", "--overwrite")
    assert shard_bytes(dataset) == before


def test_overwrite_leaves_nothing_of_the_old(
    prose_corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    assert preprocess(prose_corpus / "sea*", vocab_path, tmp_path / "ds", "--shards", "3") == 0
    assert (
        preprocess(prose_corpus / "*", vocab_path, tmp_path / "ds", "--overwrite", "--shards=1")
        == 0
    )
    assert sorted(path.name for path in (tmp_path / "ds").glob("*.tfrecord")) == [
        "eval-00000-of-00001.tfrecord",
        "train-00000-of-00001.tfrecord",
    ]


def test_failed_job_leaves_the_old_dataset(
    prose_corpus: Path,
    vocab_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert preprocess(prose_corpus / "*", vocab_path, tmp_path / "ds") == 0
    before = shard_bytes(tmp_path / "ds")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "ds")

    monkeypatch.setattr("pipeline.jobs.preprocess.write_records", fail)
    assert preprocess(prose_corpus / "*", vocab_path, tmp_path / "ds", "--overwrite") == 1
    said = capsys.readouterr().err
    assert "No space left on device" in said.strip().splitlines()[-1]
    assert "Traceback" not in said
    assert shard_bytes(tmp_path / "ds") == before


@pytest.mark.parametrize(
    ("bytes_left", "message"),
    [
        (2000, r"the Beam job failed: /\S+/documents-\w+: File too large"),
        (20_000, r"/\S+/(train|eval)-\S+: cannot be written: File too large"),
    ],
)
def test_a_full_disk_names_the_file(
    prose_corpus: Path,
    vocab_path: Path,
    tmp_path: Path,
    full_disk: Callable[[int], contextlib.AbstractContextManager[None]],
    capsys: pytest.CaptureFixture[str],
    bytes_left: int,
    message: str,
) -> None:
    with full_disk(bytes_left):
        assert preprocess(prose_corpus / "*", vocab_path, tmp_path / "ds") == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.fullmatch(f"clozeline: {message}", last)
    assert not list((tmp_path / "ds").glob("[!.]*"))


def test_vocabulary_without_mask(
    prose_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vocab = tmp_path / "v.txt"
    vocab.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nfox\n")
    code = preprocess(prose_corpus / "*", vocab, tmp_path / "ds")
    expect_error(capsys, code, "no [MASK] in this vocabulary", "v.txt")


def warnings_of(
    capsys: pytest.CaptureFixture[str], corpus: Path, vocab: Path, *more: str
) -> list[str]:
    """What `preprocess` and then `inspect` warn of, the same."""
    output = corpus.parent / "ds"
    capsys.readouterr()
    assert preprocess(corpus, vocab, output, *more, "--eval-rate", "0", "--json") == 0
    said = capsys.readouterr()
    warnings = json.loads(said.out)["warnings"]
    assert {f"warning: {warning}" for warning in warnings} <= {*said.err.splitlines()}
    assert inspect(output) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == warnings
    return warnings


def test_a_blank_line_after_every_sentence_causes_a_warning(
    vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentences = make_sentences(Random(3), "sea", 40)
    corpus = tmp_path / "in.txt"
    corpus.write_text("\n\n".join(sentences))
    lines = ["--input-format", "lines", "--shards", "1", "--max-seq-length", "64"]
    (warning,) = warnings_of(capsys, corpus, vocab_path, *lines)
    assert warning.startswith("every document has one sentence, so 100.0% of the next sentences")
    assert "put blank lines between documents only" in warning
    # Long ones are split, and their halves are true pairs.
    short = [*lines[:-1], "24", "--overwrite"]
    (warning,) = warnings_of(capsys, corpus, vocab_path, *short)
    share = re.search(r"one sentence, so (\d+)\.\d% of the next", warning)
    assert share
    assert int(share[1]) < 90
    assert warnings_of(capsys, corpus, vocab_path, *lines, "--pairing=none", "--overwrite") == []
    corpus.write_text("\n\n".join("\n".join(sentences[n : n + 8]) for n in range(0, 40, 8)))
    assert warnings_of(capsys, corpus, vocab_path, *lines, "--overwrite") == []


def test_unknown_words_are_counted_and_cause_a_warning(
    vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of the sentences are one long word, as Thai is without spaces: few pieces, much text."""
    known = make_sentences(Random(3), "sea", 30)
    lines = [line for sentence in known for line in (sentence, "ก" * 300)]
    corpus = tmp_path / "in.txt"
    corpus.write_text("\n\n".join("\n".join(lines[n : n + 6]) for n in range(0, 60, 6)))
    flags = ["--input-format", "lines", "--shards", "1"]
    (warning,) = warnings_of(capsys, corpus, vocab_path, *flags)
    total = read_manifest(tmp_path / "ds").statistics["train"]
    assert total["unknown_pieces"] == total["unknown_sentences"] == 30
    share = 30 / total["pieces"]
    assert warning.startswith(f"{share:.1%} of the pieces are [UNK], and 50.0% of the sentences")
    assert inspect(tmp_path / "ds") == 0
    said = capsys.readouterr()
    rate = json.loads(said.out)["unknown_rate"]
    assert 0 < rate < 2 * share
    assert f"Unknown pieces ([UNK]): {rate:.1%}" in said.err


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (" ".join(["Łódź ćma."] * 9).encode("utf-16"), "UTF-16 or UTF-32, not UTF-8; convert with"),
        (b"The fox.\rThe owl.\r\rThe tide.\r", "carriage returns alone as line ends"),
        (
            gzip.compress(b"The fox sees the owl.", mtime=0),
            "compressed, but its name does not end in",
        ),
    ],
)
def test_a_corpus_that_is_not_utf_8_text_is_explained(
    data: bytes,
    said: str,
    vocab_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "in.txt").write_bytes(data)
    flags = ["--input-format", "lines"]
    code = preprocess(tmp_path / "in.txt", vocab_path, tmp_path / "ds", *flags)
    expect_error(capsys, code, f"{tmp_path}/in.txt: ", said)
    where = ["--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "v.txt")]
    main(["vocab", *where, *flags, "--size", "90"])
    err = capsys.readouterr().err
    assert f"{tmp_path}/in.txt" in err
    assert said in err


def test_line_ends_of_windows_give_the_same_records(
    dataset: Path, prose_corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    for ends, folder in (("\n", "unix"), ("\r\n", "windows")):
        (tmp_path / folder).mkdir()
        for path in prose_corpus.glob("*.txt"):
            text = path.read_text().replace(". ", ".\n").replace("\n", ends)
            (tmp_path / folder / path.name).write_bytes(text.encode())
        assert preprocess(tmp_path / folder / "*", vocab_path, tmp_path / f"ds-{folder}") == 0
    assert tfrecords(tmp_path / "ds-windows") == tfrecords(tmp_path / "ds-unix")


def inspect(dataset: Path) -> int:
    return main(["inspect", str(dataset), "--examples", "1", "--json"])


def test_inspect(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(dataset) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    manifest = read_manifest(dataset)
    assert result["examples"] == {s: manifest.examples(s) for s in ("train", "eval")}
    assert sum(result["lengths"].values()) == sum(result["examples"].values())
    # "the" stands for far more than a thirtieth of the text: below the log of the pieces used.
    assert 1.5 < result["unigram_entropy_nats"] < np.log(40)
    assert "checksums, records and counts agree" in said.err


@pytest.mark.parametrize("damage", ["truncate", "flip", "vocabulary", "vanish", "manifest"])
def test_inspect_names_what_is_damaged(
    damage: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "ds"
    copy.mkdir()
    for name, data in shard_bytes(dataset).items():
        (copy / name).write_bytes(data)
    shard = copy / "train-00001-of-00002.tfrecord"
    data = bytearray(shard.read_bytes())
    if damage == "truncate":
        shard.write_bytes(data[:-10])
        words = ["train-00001-of-00002.tfrecord", "truncated"]
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
        words = ["train-00001-of-00002.tfrecord", "CRC-32C"]
    elif damage == "vocabulary":
        (copy / "vocab.txt").write_text((copy / "vocab.txt").read_text() + "more\n")
        words = ["vocab.txt", "not the vocabulary"]
    elif damage == "vanish":
        shard.unlink()
        words = ["train-00001-of-00002.tfrecord", "missing"]
    else:
        (copy / MANIFEST).write_text("{}")
        words = ["manifest.json: damaged", "make the dataset again"]
    expect_error(capsys, inspect(copy), *words)


def test_a_dataset_has_one_writer(
    prose_corpus: Path,
    vocab_path: Path,
    tmp_path: Path,
    writer_of: Callable[[Path], subprocess.Popen],
    capsys: pytest.CaptureFixture,
) -> None:
    output = tmp_path / "new" / "ds"
    other = writer_of(output)
    (output / "_temporary").mkdir()  # the other one's
    assert preprocess(prose_corpus / "*.txt", vocab_path, output, "--overwrite") == 2
    (line,) = capsys.readouterr().err.splitlines()
    expected = f"clozeline: --output {output}: is being written by process {other.pid}, since 20"
    assert line.startswith(expected)
    assert sorted(path.name for path in output.iterdir()) == [".lock", "_temporary"]
