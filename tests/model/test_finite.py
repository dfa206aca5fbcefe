"""Models whose outputs are NaN: no command shows a metric, an explanation or an export of one."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from model.bert.config import BertConfig
from model.bert.network import build_model, weights_by_name
from model.configs import EvaluateConfig
from model.evaluate import evaluate_run
from model.explaining.explanation import explain_texts
from model.finite import check_finite
from model.run import Run, load_run, write_run
from model.run_config import RunConfig, TextFacts
from model.tasks.task_kind import Task
from model.tasks.vectors import VectorSettings
from pipeline.errors import InputError
from pipeline.manifest import sha256
from pipeline.schema import SPECIAL_TOKENS
from serving.export.golden import Reference

PIECES = (*SPECIAL_TOKENS, "a", "film", "good", "bad")
CLASSES = Task("single", ("bad", "good"), takes_pairs=False)
TASKS_AND_DATA = [
    (CLASSES, "text\tlabel\na film\tgood\n"),
    (Task("regression", (), takes_pairs=False), "text\tlabel\na film\t1\nbad film\t2\n"),
    (
        Task("similarity", (), takes_pairs=False, vectors=VectorSettings()),
        "text\ttext_pair\tscore\na film\tgood film\t1\na film\tbad\t2\n",
    ),
]


def diverged_run(path: Path, config: BertConfig, task: Task | None) -> Run:
    """Write a run whose weights are finite, but so large that their sum is infinite."""
    config = dataclasses.replace(config, vocab_size=len(PIECES))
    weights = weights_by_name(build_model(config, task))
    table = weights["token_embedding/embeddings"]
    table.assign(np.full(table.shape, 3e38))
    vocabulary = "".join(f"{piece}\n" for piece in PIECES).encode()
    facts = TextFacts(sha256(vocabulary), lower_case=True, max_seq_length=16)
    heads = () if task else ("masked_lm",)
    write_run(path, RunConfig(config, None, facts, heads=heads, task=task), vocabulary, weights)
    return load_run(path)


@pytest.mark.parametrize(("task", "data"), TASKS_AND_DATA, ids=lambda value: str(value)[:30])
def test_no_metric_is_shown(
    small_config: BertConfig, tmp_path: Path, task: Task, data: str
) -> None:
    """A class would be the first one for each text; other metrics raised `ValueError`."""
    run = diverged_run(tmp_path / "run", small_config, task)
    data_path = tmp_path / "data.tsv"
    data_path.write_text(data)
    with pytest.raises(InputError, match=rf"^{run.path}: its outputs are NaN or infinite"):
        evaluate_run(EvaluateConfig(run_dir=run.path, data=data_path, xla=False))


@pytest.mark.parametrize("task", [None, CLASSES])
def test_nothing_is_explained_or_exported(
    small_config: BertConfig, tmp_path: Path, task: Task | None
) -> None:
    run = diverged_run(tmp_path / "run", small_config, task)
    with pytest.raises(InputError, match=rf"^{run.path}: its outputs are NaN or infinite"):
        explain_texts(run, ["A film"], 0, 0)
    with pytest.raises(InputError, match=rf"^{run.path}: its outputs are NaN or infinite"):
        Reference(run, run.load_model()).about("A film")


def test_numbers_of_any_shape_are_checked() -> None:
    check_finite("it", [np.zeros((2, 3)), 1.0, np.zeros(0)])
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(InputError, match=r"^it: its outputs are NaN or infinite.*lower"):
            check_finite("it", [0.0, np.array([[1.0, value]])])
