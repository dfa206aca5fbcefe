"""Run every input of `tests/faults`, each of which failed once, through the real commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

import clozeline
from clozeline.main import main
from model.bert.config import BertConfig
from model.bert.network import build_model, weights_by_name
from model.run import write_run
from model.run_config import RunConfig, TextFacts
from model.tasks.tagging import tag_measures
from pipeline.manifest import sha256

FAULTS = Path(__file__).parent / "faults"
SHARED = Path(clozeline.__file__).parents[2] / "shared" / "faults"
WORDS = """
    ada peter lives left in ulm rome at noon nobody moved spoke on the way boat a river was wide
    glad evening lake dull and empty story warm full of life nothing here works all where did ferry
    leave from who when she lovelace 1 2 3 4 .
""".split()  # noqa: SIM905

Command = Callable[..., Any]


def strictly(text: str) -> Any:
    """Parse JSON as RFC 8259 has it: no NaN, no Infinity."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command; return its result."""

    def do(*arguments: object) -> dict[str, Any]:
        code = main([*map(str, arguments), "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return strictly(captured.out) | {"said": " ".join(captured.err.split())}

    return do


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command whose input is bad; return the line that it ends with."""

    def do(*arguments: object) -> str:
        assert main([*map(str, arguments)]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("clozeline: ")
        return last

    return do


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder with random weights that takes 512 positions and knows the files' words."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    vocabulary = "".join(f"{piece}\n" for piece in pieces).encode()
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=512,
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    path = tmp_path_factory.mktemp("encoder") / "run"
    facts = TextFacts(sha256(vocabulary), lower_case=True, max_seq_length=512)
    tf.keras.utils.set_random_seed(3)
    weights = weights_by_name(build_model(config, None))
    write_run(path, RunConfig(config, None, facts, heads=("masked_lm",)), vocabulary, weights)
    return path


@pytest.fixture(scope="module")
def tuned_runs() -> dict[tuple[object, ...], Path]:
    """Runs by what they were tuned with; no test changes one."""
    return {}


@pytest.fixture
def tune(
    encoder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    run: Command,
    tuned_runs: dict[tuple[object, ...], Path],
) -> Command:
    """Tune the encoder on one of the files, once for all tests; return the run."""

    def do(task: str, name: str, *flags: object, steps: int = 60) -> Path:
        key = (task, name, *flags, steps)
        if key in tuned_runs:
            return tuned_runs[key]
        path = tmp_path_factory.mktemp("tuned") / f"{task}-run"
        run(
            "finetune", "--task", task, "--train", FAULTS / name, "--init", encoder, "--run", path,
            "--steps", steps, "--batch-size", 8, "--learning-rate", "1e-2", "--no-xla",
            "--precision", "float32", "--max-seq-length", 128, *flags,
        )  # fmt: skip
        return tuned_runs.setdefault(key, path)

    return do


@pytest.fixture
def predicted(run: Command, tmp_path: Path) -> Command:
    """Evaluate a run on a file; return the result and the predictions."""

    def do(run_dir: Path, data: Path, *flags: object) -> tuple[dict[str, Any], list[Any]]:
        answers = tmp_path / "answers.jsonl"
        result = run(
            "evaluate", "--run", run_dir, "--data", data, "--no-xla", "--predictions", answers,
            *flags,
        )  # fmt: skip
        return result, [strictly(line) for line in answers.read_text("utf-8").splitlines()]

    return do


def test_a_passage_longer_than_the_window(
    tune: Command, predicted: Command, run: Command, tmp_path: Path
) -> None:
    data = FAULTS / "long_passage.squad.json"
    tuned = tune("span", data.name, "--doc-stride", 16, steps=2)
    result, answers = predicted(tuned, data)
    assert result["examples"] == len(answers) == 2
    assert 0 <= result["span_f1"] <= 1
    # An imported model says nothing of how passages were cut in its training.
    run("export-hf", "--run", tuned, "--output", tmp_path / "hf")
    run("import", "--from", tmp_path / "hf", "--run", tmp_path / "imported")
    result, answers = predicted(tmp_path / "imported", data)
    assert result["examples"] == len(answers) == 2


@pytest.mark.parametrize("name", ["cut.jsonl.gz", "cut.jsonl.zst"])
@pytest.mark.parametrize("command", ["vocab", "preprocess"])
def test_a_truncated_compressed_file(
    name: str, command: str, encoder: Path, refused: Command, tmp_path: Path
) -> None:
    vocab = ["--vocab", encoder / "vocab.txt"] if command == "preprocess" else []
    line = refused(
        command, "--input", FAULTS / "whole.jsonl", FAULTS / name, "--input-format", "jsonl",
        "--output", tmp_path / "out", *vocab,
    )  # fmt: skip
    assert name in line
    assert "ends in the middle of the compressed stream" in line
    assert [*tmp_path.iterdir()] == []


def test_text_after_a_nul_is_used_in_training(tune: Command, predicted: Command) -> None:
    data = FAULTS / "nul.squad.json"
    result, (answer,) = predicted(tune("span", data.name), data)
    assert (answer["answer"], result["span_f1"]) == ("Rome", 1)


@pytest.mark.slow
def test_text_after_a_nul_is_tagged(tune: Command, run: Command, tmp_path: Path) -> None:
    (request,) = strictly((FAULTS / "nul.tag.request.json").read_text("utf-8"))["instances"]
    tagged = tune("tagging", "germeval_form.tsv", steps=1)
    exported = run("export", "--run", tagged, "--output", tmp_path / "models" / "names")
    tag = tf.saved_model.load(exported["model"]).signatures["tag"]
    answer = tag(text=tf.constant([request]))
    assert answer["words"].numpy().tolist() == [[b"Ada", b"left", b"Rome"]]
    assert answer["start"].numpy().tolist() == [[0, 6, 11]]
    assert answer["end"].numpy().tolist() == [[3, 10, 15]]


@pytest.mark.parametrize(
    ("task", "name"), [("single", "pandas_index.csv"), ("pair", "index_pair.tsv")]
)
def test_the_text_column_is_used_not_the_row_numbers(
    task: str, name: str, tune: Command, predicted: Command
) -> None:
    result, _ = predicted(tune(task, name), FAULTS / name)
    assert result["accuracy"] == 1


def test_words_are_tagged_not_their_numbers(tune: Command, predicted: Command) -> None:
    result, answers = predicted(tune("tagging", "germeval_form.tsv"), FAULTS / "germeval_form.tsv")
    assert [answer["words"] for answer in answers] == [
        ["Anna", "lives", "in", "Ulm"],
        ["Peter", "left", "Ulm"],
    ]
    assert [answer["expected"] for answer in answers] == [
        ["B-PER", "O", "O", "B-LOC"],
        ["B-PER", "O", "B-LOC"],
    ]
    assert result["entity_f1"] == 1


def test_entities_in_bilou_are_counted_as_seqeval_does() -> None:
    rows = (FAULTS / "bilou.conll").read_text("utf-8").split("\n")
    gold = [row.split()[1] for row in rows if row]
    found = ["B-PER", "O", "O", "U-LOC"]
    # seqeval 1.2.2: f1_score([gold], [found], mode="strict", scheme=BILOU)
    assert tag_measures([gold], [found])["entity_f1"] == pytest.approx(2 / 3)


def test_questions_without_answers_are_predicted_only(tune: Command, predicted: Command) -> None:
    result, answers = predicted(tune("span", "nul.squad.json"), FAULTS / "no_answers.squad.json")
    assert [answer["id"] for answer in answers] == ["a", "b"]
    assert "span_f1" not in result


def test_an_empty_passage_has_no_answer(tune: Command, predicted: Command) -> None:
    _, (answer,) = predicted(tune("span", "nul.squad.json"), FAULTS / "empty_passage.squad.json")
    assert answer["answer"] == ""


def test_an_empty_label_is_refused(encoder: Path, refused: Command, tmp_path: Path) -> None:
    line = refused(
        "finetune", "--task", "single", "--train", FAULTS / "empty_label.csv", "--init", encoder,
        "--run", tmp_path / "run",
    )  # fmt: skip
    assert "empty_label.csv" in line
    assert "4" in line  # the line in the file
    assert "label" in line
    assert not (tmp_path / "run").exists()


def test_labels_that_are_hidden_are_predicted(tune: Command, predicted: Command) -> None:
    run_dir = tune("single", "pandas_index.csv")
    data = FAULTS / "labels_minus_one.jsonl"
    result, answers = predicted(run_dir, data)
    rows = data.read_text("utf-8").splitlines()
    assert len(answers) == result["examples"] == len(rows)
    assert "accuracy" not in result
    glad = [json.loads(row)["sentence"].startswith(("glad", "warm")) for row in rows]
    assert [answer["answer"] for answer in answers] == ["1" if good else "0" for good in glad]


def test_a_word_that_is_a_no_break_space(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(
        [*map(str, (
            "finetune", "--task", "tagging", "--train", FAULTS / "empty_word.conll", "--init",
            encoder, "--run", tmp_path / "run", "--steps", 1, "--batch-size", 1, "--no-xla",
        ))]
    )  # fmt: skip
    assert code == 0 or "no-break space" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["string_view.parquet", "dictionary.parquet"])
def test_parquet_of_newer_writers(name: str, encoder: Path, run: Command, tmp_path: Path) -> None:
    def shards(source: str, form: str) -> dict[str, bytes]:
        output = tmp_path / form
        result = run(
            "preprocess", "--input", FAULTS / source, "--input-format", form, "--id-column", "id",
            "--vocab", encoder / "vocab.txt", "--output", output, "--max-seq-length", 32,
        )  # fmt: skip
        documents = result["statistics"]["train"]["documents"]
        assert documents + sum(result["dropped_documents"].values()) == 20
        return {path.name: path.read_bytes() for path in sorted(output.glob("*.tfrecord"))}

    lines = (FAULTS / "whole.jsonl").read_text("utf-8").splitlines(keepends=True)[:20]
    table = tmp_path / "same.jsonl"
    table.write_text("".join(lines), "utf-8")
    expected = shards(str(table), "jsonl")
    assert shards(name, "parquet") == expected
    assert expected


def test_a_blank_line_after_every_sentence(encoder: Path, run: Command, tmp_path: Path) -> None:
    result = run(
        "preprocess", "--input", FAULTS / "blank_between_sentences.txt", "--input-format", "lines",
        "--vocab", encoder / "vocab.txt", "--output", tmp_path / "dataset",
    )  # fmt: skip
    assert "one sentence" in result["said"]
    assert "next sentence" in result["said"]


@pytest.mark.data
@pytest.mark.skipif(not SHARED.exists(), reason="the shared folder is not there")
def test_every_shared_input_has_a_test() -> None:
    shared = {path.name: path.read_bytes() for path in SHARED.iterdir() if path.suffix != ".md"}
    here = {name: (FAULTS / name).read_bytes() for name in shared if (FAULTS / name).exists()}
    assert here == shared
