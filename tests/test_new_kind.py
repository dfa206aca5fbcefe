"""A kind of task is one file and one row of a table: a new one runs through every command."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import tensorflow as tf

from model.bert.config import BertConfig
from model.bert.network import build_model, weights_by_name
from model.run import write_run
from model.run_config import RunConfig, TextFacts
from pipeline.manifest import sha256
from pipeline.schema import SPECIAL_TOKENS
from serving.client import Client

PROGRAM = Path(__file__).parent / "new_kind" / "clozeline_with_topics.py"
WORDS = ("the", "and", "sees", "hears")
TOPICS = {"sea": ("boat", "wave"), "town": ("tram", "street"), "wood": ("fox", "oak")}

pytestmark = pytest.mark.slow


def clozeline(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def result(*arguments: object) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(clozeline(*arguments, "--json").stdout)
    return values


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small encoder whose weights are random."""
    words = [*WORDS, *(word for both in TOPICS.values() for word in both)]
    vocabulary = "".join(f"{piece}\n" for piece in (*SPECIAL_TOKENS, *words)).encode()
    config = BertConfig(
        vocab_size=len(SPECIAL_TOKENS) + len(words), hidden_size=32, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=64, max_position_embeddings=24,
        initializer_range=0.2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("encoder") / "run"
    facts = TextFacts(sha256(vocabulary), lower_case=True, max_seq_length=24)
    tf.keras.utils.set_random_seed(3)
    weights = weights_by_name(build_model(config, None))
    write_run(path, RunConfig(config, None, facts), vocabulary, weights)
    return path


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = Random(5)
    lines = ["text\tlabel"]
    for index in range(90):
        topics = rng.sample(sorted(TOPICS), 1 + index % 3)
        words = [*rng.choices(WORDS, k=3), *(rng.choice(TOPICS[topic]) for topic in topics)]
        rng.shuffle(words)
        lines.append(f"{' '.join(words)}\t{'+'.join(topics)}")
    path = tmp_path_factory.mktemp("examples") / "topics.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def tuned(encoder: Path, examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("tuned") / "run"
    trained = result(
        "finetune", "--task", "topics", "--train", examples, "--dev", examples, "--init", encoder,
        "--run", run, "--steps", 500, "--batch-size", 16, "--learning-rate", 1e-2, "--no-xla",
        "--precision", "float32",
    )  # fmt: skip
    assert trained["best_exact"] > 0.9
    return run


@pytest.fixture(scope="module")
def served(
    tuned: Path, tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[[int], list[int]]
) -> Iterator[str]:
    """The address of a server with the exported model `topics`."""
    models = tmp_path_factory.mktemp("models")
    exported = result("export", "--run", tuned, "--output", models / "topics")
    assert "topics" in exported["signatures"]
    rest, grpc = free_ports(2)
    command = [sys.executable, "-m", "clozeline", "serve", "--models", str(models)]
    server = subprocess.Popen([*command, "--rest-port", str(rest), "--grpc-port", str(grpc)])
    try:
        Client(f"http://127.0.0.1:{rest}").wait_until_ready("topics", 600)
        yield f"127.0.0.1:{rest}"
    finally:
        server.terminate()
        assert server.wait() == 0


def test_the_new_kind_is_a_choice_of_the_flag() -> None:
    assert "topics: several classes of texts" in " ".join(
        clozeline("finetune", "--help").stdout.replace("│", " ").split()
    )


def test_it_is_evaluated_and_explained(tuned: Path, examples: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    found = result(
        "evaluate", "--run", tuned, "--data", examples, "--predictions", answers, "--no-xla"
    )
    assert found["exact"] > 0.9
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    right = [{*row["answer"].split("+")} == {*row["expected"].split("+")} for row in rows]
    assert sum(right) == round(found["exact"] * len(rows))
    explained = result("explain", "the boat sees the tram", "--run", tuned)
    (prediction,) = explained["predictions"]
    assert {name for name, score in prediction["answers"] if score > 0} == {"sea", "town"}


def test_it_is_served_and_queried(served: str) -> None:
    asked = ("query", "the boat sees the tram", "--model", "topics", "--server", served)
    answer = result(*asked)
    assert answer["signature"] == "topics"
    assert answer["topics"] == ["sea", "town", ""]
    assert [share > 0.5 for share in answer["shares"]] == [True, True, False]
    assert "sea, town" in clozeline(*asked).stdout
