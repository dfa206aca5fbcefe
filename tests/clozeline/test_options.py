"""Messages of the engine: names of fields become flags."""

import dataclasses
import logging
import re
from pathlib import Path
from typing import Annotated, Any

import pytest
import tyro

from clozeline.commands import COMMANDS, options_of, spelled
from clozeline.commands.pretrain import RECIPES
from clozeline.main import main, parse
from clozeline.options import Command, as_flags, help_texts, presets
from clozeline.show.terminal import printed_notes
from docs.blocks import ROOT
from model.bert.config import BertConfig
from pipeline.errors import InputError, JobError, check_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Command):
    run_dir: Annotated[Path, tyro.conf.arg(name="run")] = dataclasses.field(
        metadata={"flag": "run"}
    )
    text: Annotated[tuple[str, ...], tyro.conf.Positional]
    batch_size: int = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Make(Command):
    text: str
    eval_rate: float = 0.1


@pytest.mark.parametrize(
    ("message", "printed"),
    [
        ("`batch_size` 7: must be a multiple of 2", "--batch-size 7: must be a multiple of 2"),
        ("`run_dir` r: already exists", "--run r: already exists"),
        ("`text`: expected two", "TEXT: expected two"),
        ("give a higher `eval_rate`", "give a higher --eval-rate"),  # of another command
        ("`given` and `models.config` and `unknown`", "`given` and `models.config` and `unknown`"),
        ("a batch_size without quotes; `run_dir", "a batch_size without quotes; `run_dir"),
    ],
)
def test_fields_in_backquotes_become_flags(message: str, printed: str) -> None:
    assert as_flags(message, Train, Make) == printed


def test_common_options_have_the_same_names_in_every_command() -> None:
    commands = map(options_of, COMMANDS)
    names = {field.name for command in commands for field in dataclasses.fields(command)}
    message = " ".join(f"`{name}`" for name in sorted(names - {"given"}))
    assert message.count("`") > 200
    for command in COMMANDS:
        assert "`" not in spelled(message, command)


@pytest.mark.parametrize(
    ("error", "code"), [(InputError("`seed` 1: no"), 2), (JobError("`seed` 1: no"), 1)]
)
def test_errors_of_the_engine_are_printed_with_flags(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(options_of("query"), "run", fail)
    assert main(["query", "--model", "m", "text"]) == code
    assert capsys.readouterr().err == "clozeline: --seed 1: no\n"


def test_log_messages_of_the_engine_name_flags(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("pipeline.some.module")
    with printed_notes(lambda message: as_flags(message, Make)):
        logger.debug("unseen")
        logger.info("a higher `eval_rate` [bold] %s", "x" * 100)
        logger.warning("none")
    logger.info("afterwards")
    noted = capsys.readouterr()
    assert noted.err == f"a higher --eval-rate [bold] {'x' * 100}\nwarning: none\n"
    assert noted.out == ""


@pytest.mark.parametrize(
    ("high", "rule"), [(9, "`size` 2: must be from 3 to 9"), (None, "`size` 2: must be at least 3")]
)
def test_a_number_out_of_range(high: int | None, rule: str) -> None:
    bounds = (3,) if high is None else (3, high)
    with pytest.raises(InputError, match=rule):
        check_range("size", 2, *bounds)
    check_range("size", 3, *bounds)
    with pytest.raises(InputError):
        check_range("size", float("nan"), *bounds)


def pretrain_options(*arguments: str) -> Any:
    options, unknown = parse("pretrain", ["--dataset", "d", "--run", "r", *arguments])
    assert unknown == []
    return options


def test_a_recipe_is_below_the_yaml_file_and_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text("recipe: cpu-hours\nlearning-rate: 3e-3\ndropout: 0.2\n")
    options = pretrain_options("--config", str(file), "--dropout", "0.3")
    assert options.recipe == options.engine_config().recipe == "cpu-hours"
    assert options.initialization == "neighbours-and-matches"
    assert options.next_sentence_weight == 0.2
    assert options.learning_rate == 3e-3
    assert options.dropout == 0.3


def test_the_last_recipe_wins() -> None:
    options = pretrain_options("--recipe=cpu-hours", "--recipe", "bert-2018")
    assert (options.recipe, options.initialization, options.dropout) == ("bert-2018", "random", 0.1)


@pytest.mark.parametrize("name", presets(RECIPES))
def test_a_recipe_is_described_in_the_help_and_on_the_page_of_training(name: str) -> None:
    assert f" {name}: " in help_texts(options_of("pretrain"))["recipe"]
    assert f"\n| `{name}` | " in (ROOT / "docs" / "train.md").read_text(encoding="utf-8")


def test_the_recipe_bert_2018_has_the_defaults() -> None:
    ours, plain = pretrain_options("--recipe", "bert-2018"), pretrain_options()
    changed = {
        field.name
        for field in dataclasses.fields(ours)
        if getattr(ours, field.name) != getattr(plain, field.name)
    }
    assert changed == {"recipe", "dropout", "given"}
    assert ours.dropout == BertConfig(vocab_size=1).hidden_dropout_prob


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning-rat: 1", "option 'learning-rat'; did you mean learning-rate?"),
        ("dropout: [0.1, 0.2]", "option 'dropout' is [0.1, 0.2]; expected a single value"),
    ],
)
def test_a_recipe_that_cannot_be_used(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.yaml").write_text(text)
    monkeypatch.setattr("clozeline.options.presets", lambda _: {"own": tmp_path / "own.yaml"})
    with pytest.raises(InputError, match=re.escape(said)) as error:
        pretrain_options("--recipe", "own")
    assert str(error.value).startswith(f"`recipe` {tmp_path}")


def test_a_recipe_whose_initial_weights_those_of_a_run_exclude() -> None:
    init = ["--recipe", "cpu-hours", "--init", "run"]
    with pytest.raises(InputError, match="`initialization` random if `recipe` cpu-hours sets it"):
        pretrain_options(*init)
    assert pretrain_options(*init, "--initialization", "random").learning_rate == 1e-3


def test_an_unknown_recipe() -> None:
    with pytest.raises(InputError, match="`recipe` fast: expected bert-2018, cpu-hours"):
        pretrain_options("--recipe", "fast")


PATHS_BY_COMMAND = {
    "vocab": "--input {}/*.txt --output {}/vocab.txt",
    "preprocess": "--input {}/*.txt --vocab {}/vocab.txt --output {}/dataset "
    "--rejected {}/rejected --decontaminate {}/evaluation.tsv",
    "inspect": "{}/dataset",
    "pretrain": "--dataset {}/dataset --run {}/run --init {}/init --phase2-dataset {}/longer "
    "--teacher {}/teacher",
    "import": "--from {}/checkpoint --run {}/run",
    "export-hf": "--run {}/run --output {}/theirs",
    "finetune": "--task single --train {}/t.tsv --dev {}/d.tsv --init {}/init --run {}/run "
    "--teacher {}/teacher --unlabelled {}/u.tsv",
    "evaluate": "--run {}/run --data {}/d.tsv --predictions {}/p.jsonl --picture {}/p.png",
    "export": "--run {}/run --output {}/models/m",
    "serve": "--models {}/models --batching-config {}/batching.config",
    "explain": "--run {}/run --output {}/page.html text",
}


@pytest.mark.parametrize("name", PATHS_BY_COMMAND)
@pytest.mark.parametrize(
    "base", ["gs://bucket/a", "s3://bucket", "az://c/a", "hdfs://h:1/a", "a/b"]
)
def test_every_path_of_every_command_takes_a_url(name: str, base: str) -> None:
    words = PATHS_BY_COMMAND[name].format(*[base] * 6).split()
    assert {word for word in words if word.startswith(base)} <= values_of(name, words)


def values_of(name: str, words: list[str]) -> set[str]:
    """Return the values of all options of a command, as texts."""
    options, _ = parse(name, words)
    given = [value for value in vars(options).values() if value is not None]
    return {str(each) for value in given for each in (value if type(value) is tuple else [value])}


@pytest.mark.parametrize("name", PATHS_BY_COMMAND)
def test_every_path_of_every_command_may_begin_with_the_home_directory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell leaves `--run=~/run` and '~/*.txt' in quotes as they are, and so does YAML."""
    monkeypatch.setenv("HOME", "/home/ada")
    words = PATHS_BY_COMMAND[name].format(*["~"] * 6).split()
    expected = {word.replace("~", "/home/ada") for word in words if word.startswith("~")}
    assert expected <= values_of(name, words)
    if name == "explain":  # its text is a positional argument, too
        return
    config = tmp_path / "config.yaml"
    if name == "inspect":
        config.write_text("dataset: ~/dataset")
    else:
        pairs = zip(words[::2], words[1::2], strict=True)
        config.write_text("".join(f"{flag.removeprefix('--')}: {value}\n" for flag, value in pairs))
    assert expected <= values_of(name, ["--config", str(config)])


def test_a_config_file_in_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    text = "model: ~/model.json\ndataset: ./~/d\nrun: ~nobody-here\n"
    (tmp_path / "config.yaml").write_text(text)
    options, _ = parse("pretrain", ["--config=~/config.yaml"])
    assert options.model == f"{tmp_path}/model.json"
    assert (options.dataset, options.run_dir) == (Path("~/d"), Path("~nobody-here"))


@pytest.mark.parametrize("name", PATHS_BY_COMMAND)
def test_every_path_of_every_command_refuses_an_unknown_scheme(name: str) -> None:
    words = PATHS_BY_COMMAND[name].format(*["ftp://host"] * 6).split()
    if name in ("vocab", "preprocess"):  # globs are looked up when the job begins
        words = [word.replace("ftp://host/*.txt", "*.txt") for word in words]
    with pytest.raises(InputError, match=r"ftp://host.*: unknown scheme ftp://; expected gs://"):
        parse(name, words)


def test_config_file_and_its_paths_may_be_urls(store: Any) -> None:
    store.objects["bucket/train.yaml"] = b"dataset: gs://bucket/dataset\nrun: gs://bucket/run\n"
    options, _ = parse("pretrain", ["--config", "gs://bucket/train.yaml"])
    assert str(options.dataset) == "gs://bucket/dataset"
    assert str(options.run_dir) == "gs://bucket/run"
    store.objects["bucket/inspect.yaml"] = b"dataset: gs://bucket/dataset\n"
    options, _ = parse("inspect", ["--config=gs://bucket/inspect.yaml"])
    assert str(options.dataset) == "gs://bucket/dataset"


@pytest.mark.parametrize(
    ("words", "text", "value"),
    [
        ([], "", "none"),
        (["--deduplicate"], "", "documents"),
        (["--deduplicate", "--duplicates", "2"], "", "documents"),
        (["--deduplicate", "near"], "deduplicate: true", "near"),
        (["--deduplicate=near", "--no-deduplicate"], "", "none"),
        (["--no-deduplicate"], "deduplicate: near", "none"),
        ([], "deduplicate: true", "documents"),
        ([], "deduplicate: false", "none"),
        ([], "deduplicate: near", "near"),
    ],
)
def test_a_former_switch_takes_a_value(
    words: list[str], text: str, value: str, tmp_path: Path
) -> None:
    (tmp_path / "flags.yaml").write_text(text or "seed: 1")
    required = ["--input", "i", "--vocab", "v", "--output", "o"]
    config = ["--config", str(tmp_path / "flags.yaml")]
    options, unknown = parse("preprocess", [*required, *config, *words])
    assert (options.deduplicate, unknown) == (value, [])  # type: ignore[attr-defined]
    assert ("deduplicate" in options.given) == bool(words or "dedup" in text)


def test_an_invalid_value_of_a_former_switch() -> None:
    with pytest.raises(InputError, match="deduplicate"):
        parse("preprocess", ["--input=i", "--vocab=v", "--output=o", "--deduplicate", "all"])
