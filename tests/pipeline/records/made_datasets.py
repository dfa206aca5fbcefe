"""Make small datasets with the real command, and read them whole."""

from pathlib import Path

import numpy as np

from clozeline.main import main
from pipeline.inspection import read_records
from pipeline.manifest import Manifest, read_manifest

DEFAULTS = {"--max-seq-length": "32", "--shards": "2", "--eval-rate": "0.2", "--seed": "9"}


def preprocess(corpus: Path, vocab: Path, output: Path, *more: str) -> int:
    defaults = [word for flag in DEFAULTS.items() if flag[0] not in more for word in flag]
    where = ["--input", str(corpus), "--vocab", str(vocab), "--output", str(output)]
    return main(["preprocess", *where, *defaults, *more])


def make(corpus: Path, vocab: Path, output: Path, *more: str) -> Manifest:
    assert preprocess(corpus, vocab, output, *more) == 0
    return read_manifest(output)


def records(dataset: Path, split: str = "train") -> dict[str, np.ndarray]:
    manifest = read_manifest(dataset)
    blocks = [
        block
        for shard in manifest.splits[split]
        for block in read_records(dataset / shard.name, manifest)
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def contents(dataset: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(dataset.iterdir())}
