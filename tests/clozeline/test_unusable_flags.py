"""Flags that have no effect in their context are refused: one line, exit code 2."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from clozeline.commands import options_of
from clozeline.main import main, parse
from model.explaining.explanation import explain_texts
from model.tasks.task_kind import kind_named
from model.tasks.texts import Texts
from pipeline.errors import InputError
from serving.client import Client, Signature
from serving.client.answers import ask

CORPUS = ["--input", "a", "--output", "o"]
DATASET = [*CORPUS, "--vocab", "v"]
PRETRAIN = ["--dataset", "d", "--run", "r"]
FINETUNE = ["--train", "t", "--init", "i", "--run", "r"]
NO_COLUMNS = "has no columns; jsonl and parquet have"
NO_TABLES = "task are not tables"

UNUSABLE = [
    *(
        (command, [*flags, *which, flag, value], flag, why)
        for command, flags in (("vocab", CORPUS), ("preprocess", DATASET))
        for which, flag, value, why in (
            ([], "--text-column", "text", f"--input-format prose {NO_COLUMNS}"),
            ([], "--id-column", "id", f"--input-format prose {NO_COLUMNS}"),
            (["--input-format", "lines"], "--text-column", "body", f"lines {NO_COLUMNS}"),
            (["--input-format", "lines"], "--id-column", "id", f"lines {NO_COLUMNS}"),
            (["--input-format", "lines"], "--language", "de", "a sentence on each line"),
        )
    ),
    ("inspect", ["d", "--examples", "0", "--split", "eval"], "--split", "shows none"),
    ("pretrain", [*PRETRAIN, "--init", "i", "--model", "mini"], "--model", "--init brings its own"),
    ("pretrain", [*PRETRAIN, "--phase2-steps", "3"], "--phase2-steps", "need a --phase2-dataset"),
    ("pretrain", [*PRETRAIN, "--steps", "3", "--epochs", "1"], "--epochs", "expected one of them"),
    *(
        ("finetune", [*FINETUNE, "--task", task, flag, "x"], flag, NO_TABLES)
        for task in ("tagging", "span")
        for flag in ("--text-column", "--text-pair-column", "--label-column")
    ),
    ("finetune", [*FINETUNE, "--task", "pair", "--word-column", "2"], "--word-column",
     "a pair task has no tags of words"),
    ("finetune", [*FINETUNE, "--task", "single", "--text-pair-column", "x"], "--text-pair-column",
     "a single task takes one text"),
    *(
        ("finetune", [*FINETUNE, "--task", task, "--doc-stride", "128"], "--doc-stride",
         f"a {task} task has no passages")
        for task in ("single", "pair", "regression", "tagging")
    ),
    *(
        ("finetune", [*FINETUNE, "--task", task, "--class-weights", "balanced"], "--class-weights",
         f"a {task} task has no classes")
        for task in ("regression", "span")
    ),
    ("finetune", [*FINETUNE, "--task", "pair", "--steps", "3", "--epochs", "3"], "--epochs",
     "--steps says how long"),
    *(
        ("finetune", [*FINETUNE, "--task", "pair", flag, value], flag, "needs --dev")
        for flag, value in (("--metric", "accuracy"), ("--eval-every-steps", "5"),
                            ("--early-stopping", "2"))
    ),
    ("serve", ["--models", "m", "--no-batching", "--batching-config", "f"], "--batching-config",
     "contradict each other"),
    ("demo", ["--corpus", "a", "--megabytes", "5"], "--megabytes", "--corpus brings its own"),
    ("query", ["--model", "m", "a", "b", "c"], "TEXT", "expected one or two texts, got 3"),
    ("explain", ["--run", "r", "a", "b", "c"], "TEXT", "expected one or two texts, got 3"),
    # As Python reads the byte 0xff of an argument.
    ("query", ["--model", "m", "a \udcff"], "TEXT", r"'a \udcff': has bytes that are not UTF-8"),
    ("explain", ["--run", "r", "a", "\udcff"], "TEXT", r"'\udcff': has bytes that are not UTF-8"),
    ("export", ["--run", "r", "--output", "o", "stray"], "stray", "unexpected"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "arguments", "flag", "why"), UNUSABLE, ids=str)
def test_a_flag_without_effect(
    command: str, arguments: list[str], flag: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *arguments]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == ""
    assert flag in line
    assert why in line


USABLE = [
    ("vocab", [*CORPUS, "--input-format", "jsonl", "--text-column", "b", "--id-column", "id"]),
    ("preprocess", [*DATASET, "--input-format", "parquet", "--text-column", "b"]),
    ("preprocess", [*DATASET, "--language", "de"]),
    ("inspect", ["d", "--split", "eval"]),
    ("pretrain", [*PRETRAIN, "--model", "mini", "--epochs", "1"]),
    ("pretrain", [*PRETRAIN, "--init", "i"]),
    ("finetune", [*FINETUNE, "--task", "single", "--text-column", "a", "--label-column", "b"]),
    ("finetune", [*FINETUNE, "--task", "pair", "--text-column", "a", "--text-pair-column", "b"]),
    ("finetune", [*FINETUNE, "--task", "regression", "--text-pair-column", "b"]),
    ("finetune", [*FINETUNE, "--task", "span", "--doc-stride", "64", "--steps", "3"]),
    ("finetune", [*FINETUNE, "--task", "pair", "--dev", "d", "--metric", "f1", "--epochs", "1"]),
    ("demo", ["--megabytes", "1"]),
    ("query", ["--model", "m", "--version", str(2**63 - 1), "a"]),
]  # fmt: skip


@pytest.mark.parametrize(("command", "arguments"), USABLE, ids=str)
def test_flags_that_go_together(command: str, arguments: list[str]) -> None:
    options, unknown = parse(command, arguments)
    assert unknown == []
    assert options.given


def test_flags_of_a_config_file_are_checked_like_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "flags.yaml"
    config.write_text("text_column: body\ninput: [a]\nvocab: v\noutput: o\n")
    assert main(["preprocess", "--config", str(config)]) == 2
    assert "--text-column: --input-format prose has no columns" in capsys.readouterr().err


def test_a_config_file_cannot_name_another_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "flags.yaml"
    config.write_text("config: other.yaml\n")
    assert main(["inspect", "d", "--config", str(config)]) == 2
    assert "unknown option 'config'" in capsys.readouterr().err
    assert main(["inspect", "d", "--config", "a", f"--config={config}"]) == 2
    assert "--config: given twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch-size", "x"], "--batch-size: expected an integer, got 'x'"),
        (["--steps", "1.5"], "--steps: expected an integer, got '1.5'"),  # None by default
        (["--learning-rate", "fast"], "--learning-rate: expected a number, got 'fast'"),
        (["--dropout", ""], "--dropout: expected a number, got ''"),
        (["--init", ""], "--init: expected a path, got an empty text"),
    ],
)
def test_a_value_of_another_type(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", "--dataset", "d", "--run", "r", *flags]) == 2
    error = capsys.readouterr().err
    assert error == f"clozeline: Error parsing {message} (see clozeline pretrain --help)\n"


def test_none_stands_for_the_default() -> None:
    flags = ["--steps=None", "--init", "None", "--dropout", "0.25", "--warmup-steps", "7"]
    options, _ = parse("pretrain", ["--dataset=d", "--run=r", *flags])
    assert (options.steps, options.init, options.dropout) == (None, None, 0.25)
    assert options.warmup_steps == 7
    flags = ["--init=i", "--task=similarity", "--train=t", "--run=r", "--pooling"]
    assert [parse("finetune", [*flags, word])[0].pooling for word in ("None", "cls")] == [
        None,
        "cls",
    ]


@pytest.mark.parametrize("flags", [["--config"], ["--config", ""], ["--config="]])
def test_a_config_file_has_a_name(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "d", *flags]) == 2
    assert capsys.readouterr().err == "clozeline: --config: expected a YAML file after it\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--version", str(2**63)], f"--version {2**63}: must be at most {2**63 - 1}"),
        (["--version", ""], "--version '': expected a name"),
        (["--model", ""], "--model '': expected a name"),
        (["--model", "a\nb"], r"--model 'a\nb': expected a name"),
        (["--model", "\udcff"], r"--model '\udcff': expected a name"),
    ],
)
def test_invalid_names_of_models_and_versions(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["query", "--model", "m", *flags, "text"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "flags", "message"),
    [
        ("tagging", ["--label-column", "label"], "--label-column: the files of a tagging task"),
        ("span", ["--text-column", "a"], "--text-column: the files of a span task are not tables"),
        ("span", ["--picture", "p.png"], "--picture: a span task has none"),
        ("single", ["--text-pair-column", "b"], "--text-pair-column: a single task takes one"),
        ("single", ["--tag-column", "2"], "--tag-column: a single task has no tags of words"),
        ("pair", ["--worst", "3"], "--worst: d: no example has a label"),
        ("pair", ["--label-map", "0=bad"], "--label-map: d: no example has a label"),
        ("pair", ["--picture", "p.png"], "--picture: d: no example has a label"),
    ],
)
def test_a_flag_of_evaluate_that_does_not_fit_the_run_or_its_data(
    kind: str,
    flags: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = SimpleNamespace(path="r", task=SimpleNamespace(kind=kind, definition=kind_named(kind)))
    monkeypatch.chdir(tmp_path)
    Path("d").touch()
    unlabelled = Texts(Path("d"), [("a", "b")], [], [1], ["a", "b"])
    monkeypatch.setattr("model.run_config.existing_config", lambda _: None)
    monkeypatch.setattr("model.evaluate.load_run", lambda *_: run)
    monkeypatch.setattr("model.evaluate.read_for", lambda *_: unlabelled)
    arguments = ["evaluate", "--run", "r", "--data", "d", "--predictions", "answers.jsonl"]
    assert main([*arguments, *flags]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_evaluations_of_a_dataset_without_an_eval_split(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = SimpleNamespace(examples=lambda split: 0 if split == "eval" else 7)
    monkeypatch.setattr("model.pretrain.open_dataset", lambda _: manifest)
    monkeypatch.setattr(options_of("pretrain"), "before_tensorflow", lambda _: None)
    assert main(["pretrain", *PRETRAIN, "--eval-every-steps", "5"]) == 2
    assert "--eval-every-steps: d has no eval split" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("signature", "texts", "message"),
    [
        ("embed", ["a", "b"], r"embed: takes text \(DT_STRING\), received 2 texts; leave 'b' out"),
        ("predict_ids", ["a"], r"takes input_ids \(DT_INT32\), input_mask \(DT_INT32\); query"),
        ("three", ["a", "b"], r"text_pair \(DT_STRING\), context \(DT_STRING\); query asks only"),
        ("none", ["a"], r"`signature` none: takes nothing, received 1 text; leave 'a' out"),
    ],
)
def test_a_wrong_number_of_texts_for_a_signature(
    signature: str, texts: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    strings = {"embed": ["text"], "three": ["text", "text_pair", "context"], "none": []}
    known = {
        name: Signature(dict.fromkeys(names, "DT_STRING"), {}) for name, names in strings.items()
    } | {"predict_ids": Signature(dict.fromkeys(["input_ids", "input_mask"], "DT_INT32"), {})}
    monkeypatch.setattr(Client, "signatures", lambda *_: known)
    with pytest.raises(InputError, match=message):
        ask("127.0.0.1:8501", "m", texts, over_grpc=False, signature=signature)


@pytest.mark.parametrize(
    ("task", "heads", "text", "message"),
    [
        ("a task", (), "He left.", "has no masked-LM head"),
        (None, ("next_sentence",), "He left.", "has no masked-LM head"),
        (None, ("masked_lm",), "He [MASK].", r"the text has \[MASK\]; drop `position`"),
    ],
)
def test_a_position_that_explain_cannot_use(task, heads, text, message, monkeypatch):
    example = SimpleNamespace(masks=[2] if "[MASK]" in text else [], __len__=lambda: 4)
    monkeypatch.setattr("model.explaining.explanation.read_example", lambda *_: example)
    config = SimpleNamespace(num_hidden_layers=1, num_attention_heads=1)
    run = SimpleNamespace(path="run", config=config, task=task, heads=heads)
    with pytest.raises(InputError, match=message):
        explain_texts(run, [text], 0, 0, 1)
