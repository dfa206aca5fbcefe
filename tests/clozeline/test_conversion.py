"""Flags and the engine's configs: every field of a config has a flag, with the same default."""

import dataclasses
from typing import Any

import pytest

from clozeline.commands.evaluate import Evaluate
from clozeline.commands.finetune import Finetune
from clozeline.commands.pretrain import Pretrain
from clozeline.main import parse
from clozeline.options import Command
from model.configs import EvaluateConfig, FinetuneConfig, PretrainConfig
from model.tasks.tables import Columns
from model.training.config import ExecutionConfig, RecoveryConfig, UpdateConfig

PARTS: dict[str, type] = {
    "updates": UpdateConfig,
    "execution": ExecutionConfig,
    "recovery": RecoveryConfig,
    "columns": Columns,
}
REQUIRED = {
    "pretrain": ["--run", "r", "--dataset", "d"],
    "finetune": ["--run", "r", "--task", "pair", "--train", "t", "--init", "i"],
    "evaluate": ["--run", "r", "--data", "d"],
}


def flat(config: Any) -> dict[str, Any]:
    """Return the fields of a config and of its parts by name."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        found |= flat(value) if field.name in PARTS else {field.name: value}
    return found


@pytest.mark.parametrize(
    ("options", "config"),
    [(Pretrain, PretrainConfig), (Finetune, FinetuneConfig), (Evaluate, EvaluateConfig)],
)
def test_every_field_of_a_config_has_a_flag(options: type[Command], config: type) -> None:
    flags = {field.name for field in dataclasses.fields(options)}
    names = {field.name for field in dataclasses.fields(config)}
    for part in names & PARTS.keys():
        names |= {field.name for field in dataclasses.fields(PARTS[part])}
    assert names - PARTS.keys() <= flags
    assert flags - names == {"config", "json", "given"}


@pytest.mark.parametrize("command", sorted(REQUIRED))
def test_defaults_of_flags_are_those_of_the_config(command: str) -> None:
    options: Any = parse(command, REQUIRED[command])[0]
    made = options.engine_config()
    required = {
        field.name: getattr(made, field.name)
        for field in dataclasses.fields(made)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    assert made == type(made)(**required)


@pytest.mark.parametrize(
    ("command", "flags", "expected"),
    [
        (
            "pretrain",
            ["--steps", "7", "--learning-rate", "0.5", "--no-xla", "--strategy", "one",
             "--on-blow-up", "skip", "--phase2-dataset", "p", "--seed", "3"],
            {"steps": 7, "learning_rate": 0.5, "xla": False, "strategy": "one",
             "on_blow_up": "skip", "seed": 3},
        ),
        (
            "finetune",
            ["--batch-size", "9", "--recompute", "--blow-up-ratio", "2", "--label-column", "l",
             "--skip-incomplete-rows", "--seed", "3", "4", "--freeze-layers", "1"],
            {"batch_size": 9, "recompute": True, "blow_up_ratio": 2.0, "label_column": "l",
             "skip_incomplete_rows": True, "seed": (3, 4), "freeze_layers": 1},
        ),
        (
            "evaluate",
            ["--worst", "10", "--label-map", "0=a", "1=b", "--word-column", "2"],
            {"worst": 10, "label_map": ("0=a", "1=b"), "word_column": 2},
        ),
        ("evaluate", [], {"worst": None}),
    ],
)  # fmt: skip
def test_a_flag_arrives_in_the_config(
    command: str, flags: list[str], expected: dict[str, Any]
) -> None:
    options: Any = parse(command, [*REQUIRED[command], *flags])[0]
    made = flat(options.engine_config())
    assert {name: made[name] for name in expected} == expected
