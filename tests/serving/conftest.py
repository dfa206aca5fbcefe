"""A run trained for two steps, the model exported from it, and a browser to look at pages."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import clozeline
from docs.browser import Browser
from model.run import Run, load_run

TINY = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
    "intermediate_size": 40, "max_position_embeddings": 32, "initializer_range": 0.3,
}  # fmt: skip


@pytest.fixture(scope="session")
def trained_run(
    prose_corpus: Path, vocab_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    folder = tmp_path_factory.mktemp("trained")
    size = len(vocab_path.read_text(encoding="utf-8").splitlines())
    (folder / "tiny.json").write_text(json.dumps(TINY | {"vocab_size": size}))
    assert clozeline.main(
        ["preprocess", "--input", str(prose_corpus / "*.txt"), "--vocab", str(vocab_path),
         "--output", str(folder / "ds"), "--max-seq-length", "32", "--max-predictions", "4",
         "--eval-rate", "0.2"]
    ) == 0  # fmt: skip
    assert clozeline.main(
        ["pretrain", "--dataset", str(folder / "ds"), "--run", str(folder / "run"),
         "--model", str(folder / "tiny.json"), "--steps", "2", "--batch-size", "8"]
    ) == 0  # fmt: skip
    return load_run(folder / "run")


@pytest.fixture(scope="session")
def exported(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`models/fox/1`."""
    models = tmp_path_factory.mktemp("models")
    arguments = ["export", "--run", str(trained_run.path), "--output", str(models / "fox")]
    assert clozeline.main(arguments) == 0
    return models / "fox" / "1"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("chromium"))
    yield made
    made.driver.quit()
