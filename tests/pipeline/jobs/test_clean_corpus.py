"""All cleaning rules at once: what each removes, the same bytes on any number of workers."""

import json
from pathlib import Path

import pytest

from clozeline.main import main
from pipeline.manifest import read_manifest
from pipeline.storage.rejection_files import read_rejections
from tests.pipeline.jobs.on_engines import GERMAN, QUALITY, contents


@pytest.fixture(scope="module")
def corpus(prose_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty usable texts with private data and mojibake, and three that a rule each removes."""
    folder = tmp_path_factory.mktemp("dirty")
    texts = [path.read_text(encoding="utf-8") for path in sorted(prose_corpus.glob("*.txt"))]
    texts[0] += " Write to anna.smith@example.com or call +44 20 7946 0958."
    texts[1] += " The cafÃ© &amp; the harbour."
    evaluated = " ".join(texts[2].split()[:13])
    rejected = [GERMAN, "Too short, is it not?", "The owl sat in the old oak.\n" * 9]
    rows = [{"text": text} for text in [*texts, *rejected]]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "own.yaml").write_text(QUALITY)
    (folder / "dev.tsv").write_text(f"{evaluated}\tlabel\n")
    return folder


def preprocess(corpus: Path, vocab: Path, output: Path, *more: str) -> int:
    where = ["--input", str(corpus / "rows.jsonl"), "--vocab", str(vocab), "--output", str(output)]
    how = ["--input-format", "jsonl", "--max-seq-length", "32", "--seed", "9", "--shards", "2"]
    rules = ["--languages", "en", "--language-threshold", "0.1", "--repair"]
    rules += ["--quality", str(corpus / "own.yaml"), "--decontaminate", str(corpus / "dev.tsv")]
    rules += ["--redact", "email", "phone", "ip", "iban"]
    record = ["--rejected", str(output.parent / "rejected")]
    return main(["preprocess", *where, *how, *rules, *record, "--eval-rate", "0.2", *more])


@pytest.fixture(scope="module")
def made(corpus: Path, vocab_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    assert preprocess(corpus, vocab_path, folder / "ds") == 0
    return folder


def test_each_rule_removes_its_document(made: Path) -> None:
    manifest = read_manifest(made / "ds")
    rules = ["contaminated", "language", "own.duplicate_line_rate", "own.word_count"]
    assert manifest.dropped_documents == dict.fromkeys(rules, 1)
    assert sum(total["documents"] for total in manifest.statistics.values()) == 59
    assert manifest.changed_text == {
        "documents_with_mojibake": 1,
        "html_entities": 1,
        "redacted_email": 1,
        "redacted_phone": 1,
    }
    by_rule = {row["rule"]: row for row in read_rejections(str(made / "rejected"))}
    assert by_rule["language"]["value"] == "de"
    assert len(by_rule["contaminated"]["value"].split()) == 13


def test_inspect_shows_values_that_are_not_numbers(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(made / "rejected")]) == 0
    shown = capsys.readouterr().out
    assert "language de: " in shown
    assert "contaminated the " in shown


def test_a_manifest_has_the_rules_and_no_path(made: Path, corpus: Path) -> None:
    text = (made / "ds" / "manifest.json").read_text()
    cleaning = json.loads(text)["settings"]["cleaning"]
    assert cleaning["languages"] == ["en"]
    assert cleaning["quality"][0]["rules"]["word_count"] == {"min": 8}
    assert [len(digest) for digest in cleaning["evaluation"]] == [64]
    assert str(corpus) not in text


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4], indirect=True)
def test_same_bytes_from_several_processes(
    workers: list[str], made: Path, corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    assert preprocess(corpus, vocab_path, tmp_path / "ds", *workers) == 0
    for folder in ("ds", "rejected"):
        assert contents(tmp_path / folder) == contents(made / folder)


def test_a_vocabulary_is_learned_from_clean_text(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "vocab.txt"
    where = ["--input", str(corpus / "rows.jsonl"), "--input-format", "jsonl", "--size", "300"]
    rules = ["--languages", "en", "--language-threshold", "0.1", "--redact", "phone"]
    assert main(["vocab", *where, *rules, "--output", str(output)]) == 0
    pieces = output.read_text().split("\n")
    assert "harbour" in pieces
    assert "schiffe" not in "".join(pieces)
    assert "7946" not in pieces


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--languages", "english"], "--languages english: no code of a language"),
        (
            ["--language-threshold", "0.9"],
            "has no effect without --languages",
        ),
        (["--quality", "gofer"], "--quality gofer: expected c4, fineweb, gopher or a .yaml file"),
        (["--decontaminate", "none/*.tsv"], "--decontaminate none/*.tsv: no file matches"),
        (["--encoding", "latin-99"], "--encoding latin-99: unknown"),
        (["--redact", "name"], "redact"),
    ],
)
def test_a_wrong_flag_is_one_line(
    flags: list[str], message: str, vocab_path: Path, corpus: Path, capsys: pytest.CaptureFixture
) -> None:
    where = ["--input", str(corpus / "rows.jsonl"), "--input-format", "jsonl"]
    output = corpus.parent / "none"
    code = main(["preprocess", *where, "--vocab", str(vocab_path), "--output", str(output), *flags])
    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not output.exists()
