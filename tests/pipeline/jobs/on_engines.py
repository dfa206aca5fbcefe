"""Commands on Beam's runners, in processes of their own, and what they wrote."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
CLOZELINE = Path(sys.executable).parent / "clozeline"


def clozeline(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [CLOZELINE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def preprocess(
    corpus: Path, vocab: Path, output: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    where = ["--input", corpus / "*.txt", "--vocab", vocab, "--output", output]
    how = ["--max-seq-length", "32", "64", "--duplicates", "2", "--shards", "3"]
    return clozeline("preprocess", *where, *how, "--eval-rate", "0.2", "--seed", "9", *more)


def contents(dataset: Path) -> dict[str, bytes]:
    paths = [path for path in dataset.rglob("*") if path.is_file()]
    return {str(path.relative_to(dataset)): path.read_bytes() for path in paths}
