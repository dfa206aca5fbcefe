"""The engine's configs: what they refuse, by the name of the field."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from model.configs import EvaluateConfig, FinetuneConfig, PretrainConfig, check_columns
from model.tasks.tables import Columns
from model.training.config import ExecutionConfig, RecoveryConfig, UpdateConfig
from pipeline.errors import InputError

PATHS: dict[type, dict[str, Any]] = {
    PretrainConfig: {"run_dir": Path("r"), "dataset": Path("d")},
    FinetuneConfig: {
        "run_dir": Path("r"), "task": "pair", "train": Path("t"), "init": Path("i"),
        "dev": Path("v"),
    },
    EvaluateConfig: {"run_dir": Path("r"), "data": Path("d")},
}  # fmt: skip
"""Fields that have no default, and a file to evaluate on."""


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (UpdateConfig, {"steps": 0}, "`steps` 0: must be at least 1"),
        (UpdateConfig, {"batch_size": 0}, "`batch_size` 0: must be at least 1"),
        (UpdateConfig, {"warmup_steps": -1}, "`warmup_steps` -1: must be at least 0"),
        (UpdateConfig, {"weight_decay": -0.1}, "`weight_decay` -0.1: must be at least 0"),
        (UpdateConfig, {"weight_decay": math.nan}, "`weight_decay` nan: must be at least 0"),
        (UpdateConfig, {"learning_rate": 0.0}, "`learning_rate` 0.0: must be above 0"),
        (UpdateConfig, {"learning_rate": math.nan}, "`learning_rate` nan: must be above 0"),
        (ExecutionConfig, {"accumulation_steps": 0}, "`accumulation_steps` 0: must be at least"),
        (RecoveryConfig, {"checkpoint_every_steps": 0}, "`checkpoint_every_steps` 0: must be"),
        (RecoveryConfig, {"blow_up_ratio": 1.0}, "`blow_up_ratio` 1.0: must be above 1"),
        (RecoveryConfig, {"blow_up_ratio": math.nan}, "`blow_up_ratio` nan: must be above 1"),
        (PretrainConfig, {"seed": -1}, "`seed` -1: must be from 0 to 4294967295"),
        (PretrainConfig, {"seed": 2**32}, "`seed` 4294967296: must be from 0 to"),
        (FinetuneConfig, {"seed": (2**32,)}, "`seed` 4294967296: must be from 0 to"),
        (PretrainConfig, {"epochs": math.inf}, "`epochs` inf: must be at most"),
        (UpdateConfig, {"steps": 10**30}, "`steps` 1.*: must be at most"),
        (UpdateConfig, {"learning_rate": math.inf}, "`learning_rate` inf: must be above 0, finite"),
        (ExecutionConfig, {"worker_timeout_secs": math.inf}, "`worker_timeout_secs` inf: must be"),
        (PretrainConfig, {"epochs": 0.0}, "`epochs` 0.0: must be above 0"),
        (PretrainConfig, {"eval_every_steps": 0}, "`eval_every_steps` 0: must be at least 1"),
        (PretrainConfig, {"phase2_steps": 3}, "need a `phase2_dataset`"),
        (PretrainConfig, {"phase2_batch_size": 3}, "need a `phase2_dataset`"),
        (
            PretrainConfig,
            {"epochs": 1.0, "updates": UpdateConfig(steps=3)},
            "`steps` and `epochs`: expected one of them, got both",
        ),
        (FinetuneConfig, {"seed": ()}, "`seed` : must differ"),
        (FinetuneConfig, {"seed": (7, 7)}, "`seed` 7 7: must differ"),
        (FinetuneConfig, {"layer_decay": 0.0}, "`layer_decay` 0.0: must be above 0"),
        (FinetuneConfig, {"freeze_layers": -1}, "`freeze_layers` -1: must be at least 0"),
        (FinetuneConfig, {"doc_stride": 0}, "`doc_stride` 0: must be at least 1"),
        (FinetuneConfig, {"dev": None, "metric": "f1"}, "`metric`: needs `dev`"),
        (FinetuneConfig, {"dev": None, "early_stopping": 2}, "`early_stopping`: needs `dev`"),
        (FinetuneConfig, {"dev": None, "eval_every_steps": 2}, "`eval_every_steps`: needs `dev`"),
        (
            FinetuneConfig,
            {"task": "regression", "class_weights": "balanced"},
            "`class_weights`: a regression task has no classes",
        ),
        (FinetuneConfig, {"columns": Columns(tag_column=2)}, "`tag_column`: a pair task has no"),
        (EvaluateConfig, {"batch_size": 0}, "`batch_size` 0: must be at least 1"),
        (
            EvaluateConfig,
            {"batch_size": 1048577},
            "`batch_size` 1048577: must be at most 1,048,576",
        ),
        (UpdateConfig, {"batch_size": 10**12}, "`batch_size` 10{12}: must be at most 1,048,576"),
        (EvaluateConfig, {"worst": -1}, "`worst` -1: must be at least 0"),
    ],
)
def test_a_field_out_of_range(config: type, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config(**PATHS.get(config, {}) | fields)


@pytest.mark.parametrize("config", [*PATHS, UpdateConfig, ExecutionConfig, RecoveryConfig])
def test_valid_configs_are_frozen(config: type) -> None:
    made = config(**PATHS.get(config, {}))
    name = dataclasses.fields(made)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, name, None)


@pytest.mark.parametrize(
    ("task", "columns", "message"),
    [
        ("tagging", Columns(label_column="x"), "`label_column`: the files of a tagging task"),
        ("span", Columns(skip_incomplete_rows=True), "`skip_incomplete_rows`: the files of a span"),
        ("single", Columns(text_pair_column="x"), "`text_pair_column`: a single task takes one"),
        ("tagging", Columns(word_column=0), "`word_column` 0: must be at least 1"),
    ],
)
def test_columns_that_the_files_of_a_task_do_not_have(
    task: str, columns: Columns, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_columns(columns, task)
    check_columns(Columns(), task)
