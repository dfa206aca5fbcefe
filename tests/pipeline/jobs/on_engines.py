"""Commands on Beam's runners, in processes of their own, and what they wrote."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.fork_server import CLOZELINE, FORKS

FOR_SHORT_JOBS = {"JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
"""For engines in Java: jobs of a few seconds end before optimized machine code pays."""


def clozeline(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [CLOZELINE, *map(str, arguments)]
    return FORKS.run(command, env=os.environ | FOR_SHORT_JOBS, timeout=600)


def preprocess(
    corpus: Path, vocab: Path, output: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    where = ["--input", corpus / "*.txt", "--vocab", vocab, "--output", output]
    how = ["--max-seq-length", "32", "64", "--duplicates", "2", "--shards", "3"]
    return clozeline("preprocess", *where, *how, "--eval-rate", "0.2", "--seed", "9", *more)


NOTICE = "Subscribe to the letter of the town, and never miss a story."
GERMAN = "Der Sturm kam in den Hafen, und die Schiffe lagen die ganze Nacht still vor der Stadt."
QUALITY = "rules: {word_count: {min: 8}, duplicate_line_rate: {max: 0.3}}\n"


def write_dirty(texts: Sequence[str], folder: Path) -> None:
    """Write documents to clean: some for each rule, and a notice in one of three."""
    more = {
        "german": GERMAN,
        "short": "Too short, is it not?",
        "lines": "The owl sat in the old oak.\n" * 9,
        "private": f"{texts[0]} Write to anna.smith@example.com or call +44 20 7946 0958.",
        **{f"near-{index}": f"{texts[index]} The fox." for index in range(1, len(texts), 5)},
    }
    noticed = [text if index % 3 else f"{text}\n\n{NOTICE}\n" for index, text in enumerate(texts)]
    for name, text in {**{f"{i:02d}": text for i, text in enumerate(noticed)}, **more}.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    (folder / "own.yaml").write_text(QUALITY)


def clean(corpus: Path, vocab: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the job with a rule of each kind, which `write_dirty` wrote documents for."""
    rules = ["--languages", "en", "--language-threshold", "0.1", "--repair"]
    rules += ["--quality", str(corpus / "own.yaml"), "--redact", "email", "phone", "ip", "iban"]
    rules += ["--deduplicate", "near+paragraphs", "--rejected", str(output / "rejected")]
    return preprocess(corpus, vocab, output / "ds", *rules, *more)


def check_cleaned(output: Path) -> None:
    """Check that the job had something to do for each rule."""
    manifest = json.loads((output / "ds" / "64" / "manifest.json").read_text())
    dropped, changed = manifest["dropped_documents"], manifest["changed_text"]
    rules = {"language", "own.word_count", "own.duplicate_line_rate", "near_duplicate"}
    assert rules <= {*dropped}
    assert {"redacted_email", "redacted_phone", "repeated_paragraphs"} <= {*changed}


def contents(dataset: Path) -> dict[str, bytes]:
    paths = [path for path in dataset.rglob("*") if path.is_file()]
    return {str(path.relative_to(dataset)): path.read_bytes() for path in paths}
