"""Vectors of texts: a small encoder learns which texts are similar, and is evaluated."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from clozeline.commands.evaluate import Evaluate
from clozeline.commands.finetune import Finetune
from clozeline.main import main, parse
from model.bert.config import BertConfig
from model.bert.network import build_model, weights_by_name
from model.run import load_run, write_run
from model.run_config import RunConfig, TextFacts
from model.tasks.tables import Columns
from model.tasks.task_kind import InitialModel, kind_named, vector_task
from model.tasks.vector_examples import ComparedTexts, read_compared_texts
from model.tasks.vectors import VectorSettings
from pipeline.errors import InputError
from pipeline.manifest import sha256
from pipeline.schema import SPECIAL_TOKENS

pytestmark = pytest.mark.usefixtures("printed_engine_notes", "undrawn")

TOPICS = {"sea": ("boat", "wave", "shore"), "town": ("tram", "street"), "wood": ("fox", "oak")}
WORDS = ("the", "and", "sees", "hears")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small encoder whose weights are random."""
    pieces = [*SPECIAL_TOKENS, *WORDS, *(word for words in TOPICS.values() for word in words)]
    vocabulary = "".join(f"{piece}\n" for piece in pieces).encode()
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16, initializer_range=0.3,
        hidden_dropout_prob=0.05, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("encoder") / "run"
    facts = TextFacts(sha256(vocabulary), lower_case=True, max_seq_length=16)
    tf.keras.utils.set_random_seed(3)
    write_run(
        path, RunConfig(config, None, facts), vocabulary, weights_by_name(build_model(config, None))
    )
    return path


def sentence(rng: Random, topic: str) -> str:
    words = [*rng.choices(WORDS, k=rng.randint(2, 5)), rng.choice(TOPICS[topic])]
    rng.shuffle(words)
    return " ".join(words)


def table(path: Path, rows: list[tuple[str, ...]], *names: str) -> Path:
    path.write_text("\n".join(["\t".join(names), *("\t".join(row) for row in rows), ""]))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, rng = tmp_path_factory.mktemp("files"), Random(4)
    names = sorted(TOPICS)
    triplets, scored = [], []
    for index in range(60):
        one, other = names[index % 3], names[(index + 1) % 3]
        triplets.append((sentence(rng, one), sentence(rng, one), sentence(rng, other)))
        second = one if index % 2 else other
        scored.append((sentence(rng, one), sentence(rng, second), str(5.0 * (index % 2))))
    collection = folder / "collection"
    (collection / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{i}", "text": sentence(rng, names[i % 3])} for i in range(30)]
    queries = [{"_id": f"q{i}", "text": sentence(rng, names[i])} for i in range(3)]
    for name, records in (("corpus", corpus), ("queries", queries)):
        (collection / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    judged = [(f"q{i % 3}", f"d{i}", "1") for i in range(30)]
    table(collection / "qrels" / "test.tsv", judged, "query-id", "corpus-id", "score")
    return {
        "triplets": table(folder / "triplets.tsv", triplets, "anchor", "positive", "negative"),
        "scored": table(folder / "scored.tsv", scored, "sentence1", "sentence2", "score"),
        "pairs": table(folder / "pairs.tsv", [row[:2] for row in triplets], "query", "positive"),
        "collection": collection,
    }


@pytest.fixture(scope="module")
def tuned(
    encoder: Path, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A run tuned on triplets, with its result."""
    run = tmp_path_factory.mktemp("tuned") / "run"
    result = Finetune(
        task="similarity", train=files["triplets"], dev=files["scored"], init=encoder, run_dir=run,
        batch_size=12, steps=80, learning_rate=1e-2, precision="float32", xla=False,
        dimensions=(4, 16), pooling="mean", eval_every_steps=80,
    ).run()  # fmt: skip
    return run, result


def test_a_model_of_triplets_predicts_scores(tuned: tuple[Path, dict[str, Any]]) -> None:
    run, result = tuned
    assert result["spearman"] > 0.7
    assert result["best_spearman"] == result["spearman"]
    task = load_run(run).task
    assert task is not None
    assert task.vectors is not None
    assert (task.vectors.dimensions, task.vectors.loss) == ((16, 4), "in-batch")


def evaluated(run: Path, data: Path, tmp_path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    answers = tmp_path / "answers.jsonl"
    found = Evaluate(run_dir=run, data=data, xla=False, predictions=answers).run()
    return found, [json.loads(line) for line in answers.read_text().splitlines()]


def test_every_form_of_examples_is_evaluated(
    tuned: tuple[Path, dict[str, Any]], files: dict[str, Path], tmp_path: Path
) -> None:
    found, rows = evaluated(tuned[0], files["triplets"], tmp_path)
    assert found["triplet_accuracy"] > 0.9
    right = [row["answer"] == "positive" for row in rows]
    assert np.mean(right) == pytest.approx(found["triplet_accuracy"])
    found, rows = evaluated(tuned[0], files["scored"], tmp_path)
    assert found["spearman"] == pytest.approx(tuned[1]["spearman"], abs=1e-6)
    cosines, scores = ([row[name] for row in rows] for name in ("answer", "expected"))
    assert found["pearson"] == pytest.approx(np.corrcoef(cosines, scores)[0, 1])
    found, rows = evaluated(tuned[0], files["pairs"], tmp_path)
    assert found["mrr"] == pytest.approx(np.mean([1 / row["answer"] for row in rows]))


def test_retrieval(
    tuned: tuple[Path, dict[str, Any]],
    files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, rows = evaluated(tuned[0], files["collection"], tmp_path)
    assert found["examples"] == 3
    assert found["ndcg_at_10"] > 0.8
    assert found["recall_at_100"] == 1
    first = [row["answer"][0] in row["expected"] for row in rows]
    assert found["recall_at_1"] == pytest.approx(np.mean(first) / 10)
    monkeypatch.setattr("model.retrieve.DOCUMENTS_AT_ONCE", 7)
    monkeypatch.setattr("model.retrieve.QUERIES_AT_ONCE", 2)
    assert evaluated(tuned[0], files["collection"], tmp_path)[1] == rows


def read(path: Path, *rows: str) -> Any:
    path.write_text("\n".join(rows) + "\n")
    return read_compared_texts(path, "similarity", Columns())


def test_nli_examples_become_triplets(tmp_path: Path) -> None:
    found = read(
        tmp_path / "nli.tsv",
        "premise\thypothesis\tlabel",
        "a\tb\tentailment", "a\tc\tContradiction", "a\td\tneutral", "a\te\tentailment",
        "f\tg\tentailment",
    )  # fmt: skip
    assert found.texts == [("a", "b", "c"), ("a", "e", "c")]
    assert found.rows == [2, 5]
    assert found.left_out["premises without a contradiction left out"] == 1
    assert found.left_out["pairs of other labels are no positives"] == 2


def test_several_negatives(tmp_path: Path) -> None:
    found = read(tmp_path / "n.tsv", "query\tpositive\tnegative_1\tnegative_2", "a\tb\tc\td")
    assert found.texts == [("a", "b", "c", "d")]


def test_unusable_examples_are_skipped_and_counted(tmp_path: Path) -> None:
    found = read(
        tmp_path / "t.tsv", "anchor\tpositive\tnegative", "a\tb\tc", "a\t \tc", "a\tb\ta", "a\tb\tb"
    )
    kept = kind_named("similarity").learnable(found)
    assert kept.texts == [("a", "b", "c")]
    assert kept.left_out["with an empty text left out"] == 1
    assert kept.left_out["whose negative is the anchor or the positive left out"] == 2
    with pytest.raises(InputError, match="no example is left: 1 with an empty text left out"):
        kind_named("similarity").learnable(found.select([False, True, False, False]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["premise\thypothesis\tlabel", "a\tb\t2"], "'label' has numbers for classes; write"),
        (["s1\ts2\tscore", "a\tb\thigh"], "line 2: 'high' is neither a score nor one of entailm"),
        (["s1\ts2\tscore", "a\tb\tinf"], "line 2: 'inf' is not a finite number"),
        (["s1\ts2\tscore", "a\tb\t1e38"], "line 2: '1e38' is beyond .*; scale the numbers"),
        (["text\tscore", "a\t2"], "needs 2 text columns"),
    ],
)
def test_malformed_files(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path / "bad.tsv", *rows)


@pytest.mark.parametrize(
    ("file", "flags", "message"),
    [
        ("pairs", ["--loss", "triplet"], "--loss triplet: needs a column of negatives; --train"),
        ("pairs", ["--loss", "cosine"], "--loss cosine: needs scores; --train"),
        ("scored", ["--loss", "in-batch"], "--loss in-batch: needs pairs without scores; --train"),
        ("pairs", ["--dimensions", "32", "8"], "--dimensions 32: the vectors of the model in --in"),
        ("pairs", ["--dimensions", "8", "8"], "--dimensions 8 8: must differ"),
        ("pairs", ["--scale", "0"], "--scale 0.0: must be above 0"),
        ("pairs", ["--negative-column", "no"], "no column 'no'; it has 'query', 'positive'"),
        ("pairs", ["--task", "pair", "--pooling", "max"], "--pooling: a pair task trains no vec"),
    ],
)
def test_flags_that_do_not_fit(
    encoder: Path,
    files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    flags: list[str],
    message: str,
) -> None:
    task = [] if "--task" in flags else ["--task", "similarity"]
    given = ["--train", str(files[file]), "--init", str(encoder), "--run", str(tmp_path / "run")]
    run: Callable[..., int] = main
    assert run(["finetune", *task, *given, *flags]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("flags", "wanted"), [([], None), (["--normalize"], True), (["--no-normalize"], False)]
)
def test_normalization_is_the_initial_models_unless_a_flag_says_otherwise(
    flags: list[str], wanted: bool | None
) -> None:
    given = ["--task", "similarity", "--train", "t.tsv", "--init", "i", "--run", "r"]
    options, _ = parse("finetune", [*given, *flags])
    assert isinstance(options, Finetune)
    assert options.engine_config().vectors.normalize is wanted
    initial = InitialModel(vector_task(VectorSettings(normalize=False, pooling="max")), 16)
    pairs = ComparedTexts(Path("t.tsv"), [("a", "b")], [], [2], ["query", "positive"])
    task = kind_named("similarity").task_of(pairs)
    chosen = task.definition.with_settings(
        task, options.engine_config().vectors, pairs, initial
    ).vectors
    assert (chosen.pooling, chosen.normalize) == ("max", bool(wanted))
