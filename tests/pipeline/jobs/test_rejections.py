"""Documents that the job rejects: counted exactly, and written to readable files."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from clozeline.main import main
from pipeline.manifest import MANIFEST, read_manifest
from pipeline.storage.rejection_files import (
    SUMMARY,
    RejectionSummary,
    publish_rejections,
    read_rejections,
    read_summary,
)
from tests.pipeline.jobs.on_engines import contents

LINE: dict[str, Any] = {"id": "a", "rule": "x", "value": 1, "threshold": 2, "excerpt": "e"}
"""A line of the record of rejections."""

RULES = "rules: {word_count: {min: 8}, hash_rate: {max: 0.1}}\n"


@pytest.fixture(scope="module")
def corpus(prose_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty usable rows with ids, and some that a rule or the reader removes."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(prose_corpus.glob("*.txt"))]
    rows = [{"id": f"good/{number}", "text": text} for number, text in enumerate(texts)]
    rows += [{"id": f"short/{number}", "text": f"Only {number} words."} for number in range(7)]
    rows += [{"id": f"hash/{number}", "text": "A #b #c #d of e f g h."} for number in range(3)]
    rows += [{"id": "good/0", "text": texts[0]}, {"id": "empty", "text": " "}, {"text": "No id."}]
    path = tmp_path_factory.mktemp("rejections") / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows[::-1]))
    (path.parent / "own.yaml").write_text(RULES)
    return path


def preprocess(corpus: Path, vocab: Path, output: Path, *more: str) -> int:
    where = ["--input", str(corpus), "--vocab", str(vocab), "--output", str(output)]
    how = ["--input-format", "jsonl", "--id-column", "id", "--max-seq-length", "32", "--seed", "9"]
    rules = ["--quality", str(corpus.parent / "own.yaml"), "--deduplicate", "--shards", "2"]
    record = ["--rejected", str(output.parent / "rejected")]
    return main(["preprocess", *where, *how, *rules, *record, "--eval-rate", "0.2", *more])


@pytest.fixture(scope="module")
def made(corpus: Path, vocab_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    assert preprocess(corpus, vocab_path, folder / "ds") == 0
    return folder


def rejections(folder: Path) -> list[dict[str, Any]]:
    return [*read_rejections(str(folder))]


def test_documents_in_are_documents_used_and_removed(made: Path) -> None:
    manifest = read_manifest(made / "ds")
    used = sum(total["documents"] for total in manifest.statistics.values())
    assert used == 60
    counts = {"own.word_count": 7, "own.hash_rate": 3, "duplicate": 1, "empty": 1, "no_id": 1}
    assert manifest.dropped_documents == counts
    assert used + sum(counts.values()) == 73
    assert read_summary(str(made / "rejected")).rejected_documents == counts
    assert Counter(document["rule"] for document in rejections(made / "rejected")) == counts


def test_a_rejection_names_document_rule_value_and_threshold(made: Path) -> None:
    by_id = {document["id"]: document for document in rejections(made / "rejected")}
    assert by_id["short/3"] == {
        "id": "short/3",
        "rule": "own.word_count",
        "value": 3,
        "threshold": 8,
        "excerpt": "Only 3 words.",
    }
    assert (by_id["hash/0"]["value"], by_id["hash/0"]["threshold"]) == (0.333333, 0.1)
    assert by_id["good/0"]["rule"] == "duplicate"  # known only after documents were grouped
    assert by_id["good/0"]["excerpt"].startswith("The ")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4], indirect=True)
def test_same_rejections_from_several_processes(
    workers: list[str], made: Path, corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    assert preprocess(corpus, vocab_path, tmp_path / "ds", *workers) == 0
    for folder in ("ds", "rejected"):
        assert contents(tmp_path / folder) == contents(made / folder)


def test_a_record_of_rejections_changes_no_byte_of_the_dataset(
    made: Path, corpus: Path, vocab_path: Path, tmp_path: Path
) -> None:
    where = ["--input", str(corpus), "--vocab", str(vocab_path), "--output", str(tmp_path / "ds")]
    how = ["--input-format", "jsonl", "--id-column", "id", "--max-seq-length", "32", "--seed", "9"]
    rules = ["--quality", str(corpus.parent / "own.yaml"), "--deduplicate", "--shards", "2"]
    assert main(["preprocess", *where, *how, *rules, "--eval-rate", "0.2"]) == 0
    for path in (made / "ds").iterdir():
        assert (tmp_path / "ds" / path.name).read_bytes() == path.read_bytes()


def test_ids_that_are_not_unique_are_counted(
    corpus: Path, vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preprocess(corpus, vocab_path, tmp_path / "ds", "--no-deduplicate") == 0
    error = " ".join(capsys.readouterr().err.split())
    assert "documents with the id of another one (--id-column): 1; name a column of" in error
    statistics = read_manifest(tmp_path / "ds").statistics.values()
    assert sum(total.get("shared_ids", 0) for total in statistics) == 1


def test_a_corpus_whose_documents_are_all_removed(
    corpus: Path, vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message begins with the rule that removed most; the rejections are written."""
    rules = tmp_path / "strict.yaml"
    rules.write_text("rules: {hash_rate: {max: 0.2}, word_count: {min: 100000}}")
    assert preprocess(corpus, vocab_path, tmp_path / "ds", "--quality", str(rules)) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--input: all 73 documents were removed (68 by strict.word_count, 3 by" in line
    assert not (tmp_path / "ds" / MANIFEST).exists()
    assert len(rejections(tmp_path / "rejected")) == 73


def test_a_corpus_of_one_document_that_is_removed(
    vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "A fox. An owl.", "id": 1}')
    rules = tmp_path / "strict.yaml"
    rules.write_text("rules: {word_count: {min: 100000}}")
    path = tmp_path / "in.jsonl"
    assert preprocess(path, vocab_path, tmp_path / "ds", "--quality", str(rules)) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--input: the only document was removed (1 by strict.word_count); change" in line


def test_documents_that_are_too_short_for_the_pairing(
    vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No rule was set, so none can be changed."""
    (tmp_path / "in.txt").write_text("A fox sees the owl.")
    where = ["--input", str(tmp_path / "in.txt"), "--vocab", str(vocab_path)]
    output = ["--output", str(tmp_path / "ds"), "--pairing", "sop"]
    assert main(["preprocess", *where, *output]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the only document was removed (1 by too_short); --pairing sop needs documents" in line


def test_inspect_shows_a_histogram_and_a_sample(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(made / "rejected"), "--examples", "1"]) == 0
    shown = capsys.readouterr().out
    assert "own.word_count" in shown
    assert "own.hash_rate 0.333333 (0.1): hash/" in shown
    assert main(["inspect", str(made / "rejected"), "--json", "--examples", "2"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rejected_documents"]["own.word_count"] == 7
    assert len(result["examples"]) == 2 + 2 + 1 + 1 + 1


def test_existing_rejections_are_replaced_only_on_demand(
    made: Path, corpus: Path, vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--rejected", str(made / "rejected")]
    assert preprocess(corpus, vocab_path, tmp_path / "ds", *where) == 2
    error = capsys.readouterr().err
    assert "already holds rejected documents; choose another folder or add --overwrite" in error
    before = rejections(made / "rejected")
    assert preprocess(corpus, vocab_path, tmp_path / "ds", *where, "--overwrite") == 0
    assert rejections(made / "rejected") == before


def test_an_incomplete_copy_is_recognized_and_replaced(tmp_path: Path) -> None:
    folder, ours = tmp_path / "rejected", tmp_path / "a"
    ours.write_text(json.dumps(LINE) + "\n")
    name = "rejected-00000-of-00001.jsonl"
    summary = RejectionSummary(True, {"x": 2}, {name: 1, "rejected-missing": 1})
    missing = {name: str(ours), "rejected-missing": str(tmp_path / "none")}
    with pytest.raises(FileNotFoundError):
        publish_rejections(str(folder), missing, summary, overwrite=False)
    with pytest.raises(Exception, match="incomplete, since its job was stopped"):
        rejections(folder)
    whole = RejectionSummary(True, {"x": 1}, {name: 1})
    publish_rejections(str(folder), {name: str(ours)}, whole, overwrite=True)
    assert rejections(folder) == [LINE]
    assert sorted(path.name for path in folder.iterdir()) == [name, SUMMARY]


def test_a_file_of_the_user_is_not_replaced(
    corpus: Path, vocab_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rejected").mkdir()
    mine = tmp_path / "rejected" / "rejected-by-hand.txt"
    mine.write_text("mine")
    assert preprocess(corpus, vocab_path, tmp_path / "ds", "--overwrite") == 2
    assert "contains rejected-by-hand.txt, which no job listed" in capsys.readouterr().err
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    "line",
    [
        *("[1]", "5", "{}", "[" * 100_000, "\udcff"),
        *(json.dumps(LINE | {"value": wrong}) for wrong in ([1], 10**400, float("inf"))),
        *(json.dumps(LINE | {"threshold": wrong}) for wrong in ([1], "a")),
        *(json.dumps(LINE | {"rule": wrong}) for wrong in (5, None)),
        json.dumps(LINE | {"excerpt": 5}),
        json.dumps({key: LINE[key] for key in LINE if key != "id"}),
    ],
)
def test_a_damaged_line_is_one_line(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rejected-0.jsonl").write_text(f"{line}\n", "utf-8", "surrogateescape")
    summary = RejectionSummary(True, {"x": 1}, {"rejected-0.jsonl": 1})
    (tmp_path / SUMMARY).write_text(summary.to_json())
    assert main(["inspect", str(tmp_path)]) == 2
    assert "rejected-0.jsonl: missing or damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [{"files": ["a"]}, {"files": {"a": "1"}}, {"rejected_documents": 5}, {"more": 1}]
)
def test_a_damaged_summary_is_one_line(
    wrong: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = json.loads(RejectionSummary(True, {}, {}).to_json())
    (tmp_path / SUMMARY).write_text(json.dumps(summary | wrong))
    assert main(["inspect", str(tmp_path)]) == 2
    assert f"{SUMMARY}: damaged: " in capsys.readouterr().err
