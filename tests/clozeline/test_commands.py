"""Options that each command refuses, and the config that the others become."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clozeline.commands.corpus import CorpusOptions
from clozeline.commands.explain import Explain
from clozeline.commands.export import Export
from clozeline.commands.export_hugging_face import ExportHuggingFace
from clozeline.commands.inspect import Inspect
from clozeline.commands.preprocess import Preprocess
from clozeline.commands.query import Query, as_json
from clozeline.commands.training import TrainingFlags, named_columns
from clozeline.commands.vocab import Vocab
from clozeline.main import parse
from model.tasks.tables import Columns
from pipeline.errors import InputError
from serving.client.answers import Answer

CORPUS = ["--input", "a.txt", "b.txt", "--output", "o"]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("vocab", [*CORPUS, "--text-column", "body"], "`text_column`: .* prose has no columns"),
        ("vocab", [*CORPUS, "--input-format", "lines", "--language", "de"], "`language`: .* lines"),
        ("vocab", [*CORPUS, "--size", "4"], "`size` 4"),
        ("preprocess", [*CORPUS, "--vocab", "v", "--id-column", "i"], "`id_column`"),
        ("preprocess", [*CORPUS, "--vocab", "v", "--mask-rate", "1.5"], "`mask_rate` 1.5"),
        ("inspect", ["d", "--examples", "0", "--split", "eval"], "`split`: `examples` 0 shows"),
        ("inspect", ["d", "--examples", "-1"], "`examples` -1"),
        ("explain", ["a", "b", "c", "--run", "r"], "`text`: expected one or two texts, got 3"),
        ("explain", ["a", "--run", "r", "--output", "o.pdf"], "o.pdf: must end in .html or .png"),
        ("export", ["--run", "r", "--output", "o", "--max-loss", "0.1"], "`max_loss`"),
        ("export", ["--run", "r", "--output", "o", "--calibrate", "c"], "`calibrate`"),
        ("query", ["a", "b", "c", "--model", "m"], "`text`"),
        ("query", ["a", "--model", "m", "--n-best", "51"], "`n_best` 51"),
    ],
)
def test_options_without_effect_are_refused(
    command: str, arguments: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        parse(command, arguments)


@pytest.mark.parametrize(
    ("command", "arguments", "kind", "expected"),
    [
        ("vocab", [*CORPUS, "--size", "900", "--no-lower-case"], Vocab,
         {"input": ("a.txt", "b.txt"), "size": 900, "lower_case": False}),
        ("preprocess", [*CORPUS, "--vocab", "v", "--max-seq-length", "32", "64"], Preprocess,
         {"output": "o", "max_seq_length": (32, 64)}),
        ("inspect", ["d", "--examples", "3", "--split", "eval"], Inspect,
         {"dataset": Path("d"), "examples": 3, "split": "eval"}),
        ("explain", ["a", "b", "--run", "r", "--layer", "2", "--position", "4"], Explain,
         {"run_dir": Path("r"), "text": ("a", "b"), "layer": 2, "position": 4}),
        ("query", ["a", "--model", "m", "--grpc", "--version", "7"], Query,
         {"text": ("a",), "model": "m", "grpc": True, "version": "7"}),
    ],
)  # fmt: skip
def test_options_become_the_config_of_the_engine(
    command: str, arguments: list[str], kind: type, expected: dict[str, Any]
) -> None:
    options: Any = parse(command, arguments)[0]
    assert isinstance(options, kind)
    config = options.configuration()
    assert {name: getattr(config, name) for name in expected} == expected
    assert issubclass(kind, CorpusOptions) == (command in ("vocab", "preprocess"))


def test_options_of_the_exports() -> None:
    flags = ["--run", "r", "--output", "o", "--checkpoint", "last"]
    exported: Any = parse("export", [*flags, "--precision", "int8", "--calibrate", "c"])[0]
    assert isinstance(exported, Export)
    assert (exported.precision, exported.calibrate) == ("int8", Path("c"))
    hugging_face: Any = parse("export-hf", [*flags, "--encoder-only"])[0]
    assert isinstance(hugging_face, ExportHuggingFace)
    assert (hugging_face.checkpoint, hugging_face.encoder_only) == ("last", True)


def test_parts_of_a_training() -> None:
    arguments = ["--run", "r", "--dataset", "d", "--batch-size", "12", "--accumulation-steps", "3"]
    options: Any = parse("pretrain", [*arguments, "--on-blow-up", "skip"])[0]
    assert isinstance(options, TrainingFlags)
    parts = options.parts()
    assert parts["updates"].batch_size == 12
    assert parts["execution"].accumulation_steps == 3
    assert parts["recovery"].on_blow_up == "skip"


def test_columns_that_flags_name() -> None:
    arguments = ["--run", "r", "--data", "d", "--label-column", "gold"]
    options = parse("evaluate", arguments)[0]
    assert named_columns(options) == Columns(label_column="gold")


def test_an_answer_as_json_names_its_signature() -> None:
    answer = Answer("embed", {"embedding": [[0.5]]})
    assert as_json(answer) == {"signature": "embed", "embedding": [[0.5]]}


def test_the_package_runs_as_a_module() -> None:
    """`python -m clozeline` is the command, exit codes included."""
    bad = [sys.executable, "-m", "clozeline", "explode"]
    ran = subprocess.run(bad, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "explode" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
