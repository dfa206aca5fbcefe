"""Every command from Python: defaults of the flags, errors that name fields, one run of all."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from clozeline import api
from clozeline.commands import COMMANDS, options_of

CONFIGS = {
    "vocab": api.VocabularyConfig,
    "preprocess": api.PreprocessConfig,
    "plan": api.PlanConfig,
    "inspect": api.InspectConfig,
    "export": api.ExportConfig,
    "serve": api.ServeConfig,
    "query": api.QueryConfig,
    "explain": api.ExplainConfig,
    "import": api.ImportConfig,
    "export-hf": api.HuggingFaceExportConfig,
}  # those of pretrain, finetune and evaluate: tests/clozeline/test_conversion.py


@pytest.mark.parametrize("command", CONFIGS)
def test_a_command_and_its_function_have_the_same_defaults(command: str) -> None:
    options = {field.name: field.default for field in dataclasses.fields(options_of(command))}
    for field in flat_fields(CONFIGS[command]):
        assert options[field.name] == field.default, field.name
    assert command in COMMANDS


def flat_fields(config: type) -> Iterator[dataclasses.Field[Any]]:
    """Yield a configuration's fields; those of a nested one, which has flags, too, in its place."""
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(field.type):
            yield from flat_fields(cast(type, field.type))
        else:
            yield field


def test_every_command_has_a_function() -> None:
    functions = {name for name in api.__all__ if name.islower()} - {"path_from"}
    assert functions == {
        "make_vocabulary", "preprocess", "inspect_dataset", "pretrain", "finetune", "evaluate",
        "import_checkpoint", "export_hugging_face", "explain", "export", "serve", "query",
        "launch", "plan",
    }  # fmt: skip
    assert len(functions) == len(COMMANDS) - 1  # the demo only runs the others
    for name in api.__all__:
        assert getattr(api, name).__doc__


def test_errors_name_fields(tmp_path: Path) -> None:
    with pytest.raises(api.InputError, match="`size` 3: must be from 5 to 1000000"):
        api.VocabularyConfig(input=("a",), output=tmp_path / "v", size=3)
    with pytest.raises(api.InputError, match="`mask_rate` 2: must be from 0 to 1"):
        api.PreprocessConfig(input=("a",), vocab=tmp_path, output="o", mask_rate=2)
    with pytest.raises(api.InputError, match="`batching_config`: has no effect without `batching`"):
        api.ServeConfig(models=tmp_path, batching=False, batching_config=tmp_path)
    with pytest.raises(api.InputError, match="`text`: expected one or two texts, got 0"):
        api.QueryConfig(text=(), model="m")
    with pytest.raises(api.InputError, match=f"`input` {tmp_path}/no: no file matches"):
        api.make_vocabulary(
            api.VocabularyConfig(input=(f"{tmp_path}/no",), output=tmp_path / "vocab.txt")
        )


@pytest.mark.slow
def test_all_commands_run_from_python(
    prose_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = (str(prose_corpus / "*.txt"),)
    vocab, dataset, run = tmp_path / "vocab.txt", tmp_path / "dataset", tmp_path / "run"
    learned = api.make_vocabulary(api.VocabularyConfig(input=corpus, output=vocab, size=90))
    pieces = vocab.read_text().splitlines()
    assert (learned.path, learned.pieces, learned.warnings) == (vocab, len(pieces), ())
    texts = [path.read_text() for path in prose_corpus.iterdir()]
    words = [word for text in texts for word in text.lower().replace(".", " . ").split()]
    assert (learned.words, learned.distinct_words) == (len(words), len({*words}))

    made = api.preprocess(
        api.PreprocessConfig(
            input=corpus, vocab=vocab, output=str(dataset), max_seq_length=(32,), eval_rate=0.2
        )
    )
    (report,) = made.datasets
    assert (report.path, report.manifest.vocab_size) == (str(dataset), len(pieces))
    inspection = api.inspect_dataset(api.InspectConfig(dataset=dataset, examples=2))
    assert inspection.manifest == report.manifest
    assert sum(inspection.lengths.values()) == sum(map(report.manifest.examples, ("train", "eval")))
    assert len(inspection.records) == 2

    (tmp_path / "tiny.json").write_text(json.dumps({
        "vocab_size": len(pieces), "hidden_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 3, "intermediate_size": 40, "max_position_embeddings": 32,
    }))  # fmt: skip
    trained = api.pretrain(
        api.PretrainConfig(
            dataset=dataset,
            run_dir=run,
            model=str(tmp_path / "tiny.json"),
            updates=api.UpdateConfig(steps=2, batch_size=8),
            execution=api.ExecutionConfig(xla=False),
        )
    )
    assert (trained.run, trained.steps, trained.measured.split) == (run, 2, "eval")
    theirs, again = tmp_path / "hugging-face", tmp_path / "again"
    made_theirs = api.export_hugging_face(api.HuggingFaceExportConfig(run_dir=run, output=theirs))
    back = api.import_checkpoint(api.ImportConfig(from_dir=theirs, run_dir=again))
    assert made_theirs.architecture == "BertForPreTraining"
    assert (back.run, back.parameters) == (again, made_theirs.parameters)

    exported = api.export(api.ExportConfig(run_dir=run, output=tmp_path / "models" / "tiny"))
    assert (exported.version, exported.path.parent.name) == (1, "tiny")
    config = api.ServeConfig(models=tmp_path / "models", rest_port=0, grpc_port=0)
    with api.serve(config) as addresses:
        over_rest, over_grpc = (
            api.query(
                api.QueryConfig(text=("The fox [MASK].",), model="tiny", server=server, grpc=grpc)
            )
            for server, grpc in ((addresses.rest, False), (addresses.grpc, True))
        )
    assert over_rest.signature == over_grpc.signature == "fill_mask"
    assert over_rest.outputs["tokens"] == over_grpc.outputs["tokens"]
    closed = api.QueryConfig(text=("a",), model="tiny", server=addresses.rest)
    with pytest.raises(api.JobError, match="nothing answers at"):
        api.query(closed)

    explanation = api.explain(api.ExplainConfig(run_dir=run, text=("The fox [MASK].",), layer=2))
    best, probability = explanation.predictions[0].answers[0]
    assert best == over_rest.outputs["tokens"][0][0]
    np.testing.assert_allclose(probability, over_rest.outputs["probabilities"][0][0], rtol=1e-3)
    assert explanation.layer == 1
    assert capsys.readouterr().out == ""
