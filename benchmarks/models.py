"""Models for benchmarks: standard sizes with random weights and a synthetic vocabulary."""

import hashlib
import itertools
import string
from pathlib import Path

from model.bert.config import SIZES
from model.bert.network import build_pretraining_model, weights_by_name
from model.run import write_run
from model.run_config import RunConfig, TextFacts
from pipeline.schema import SPECIAL_TOKENS
from serving.configs import ExportConfig
from serving.export.choices import ServingPrecision
from serving.export.export import export

VOCAB_SIZE = 30_522
MAX_SEQ_LENGTH = 128


def words(count: int) -> list[str]:
    """Return `count` synthetic words; each is one piece of the vocabulary."""
    letters = itertools.product(string.ascii_lowercase, repeat=4)
    return ["".join(each) for each in itertools.islice(letters, count)]


def export_random(folder: Path, size: str, precision: ServingPrecision = "float32") -> Path:
    """Export a model of a standard size with random weights.

    Args:
        folder: folder for `run-SIZE/` and `models/SIZE/1/`; existing ones are reused.
        size: name of the size, for example "base".
        precision: dtype of the exported weights; int8 is calibrated on random words.

    Returns:
        `folder/models/SIZE/1`.
    """
    model_dir = folder / "models" / size
    if (model_dir / "1").is_dir():
        return model_dir / "1"
    pieces = [*SPECIAL_TOKENS, *words(VOCAB_SIZE - len(SPECIAL_TOKENS))]
    vocabulary = ("\n".join(pieces) + "\n").encode()
    facts = TextFacts(hashlib.sha256(vocabulary).hexdigest(), True, MAX_SEQ_LENGTH)
    config = SIZES[size].config(VOCAB_SIZE)
    run = folder / f"run-{size}"
    if not run.exists():
        weights = weights_by_name(build_pretraining_model(config))
        facts_of_run = RunConfig(config, None, facts, heads=("masked_lm", "next_sentence"))
        write_run(run, facts_of_run, vocabulary, weights)
    texts = None
    if precision == "int8":
        texts = folder / "texts.txt"
        known = words(64 * MAX_SEQ_LENGTH)
        rows = [
            known[start : start + MAX_SEQ_LENGTH] for start in range(0, len(known), MAX_SEQ_LENGTH)
        ]
        texts.write_text("".join(" ".join(row) + "\n" for row in rows), encoding="utf-8")
    how = ExportConfig(run_dir=run, output=model_dir, precision=precision, calibrate=texts)
    return export(how).path
