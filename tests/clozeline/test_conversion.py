"""Flags and the engine's configs: every field of a config has a flag, with the same default."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from clozeline.commands import COMMANDS, options_of
from clozeline.commands.caching import CachingCommand
from clozeline.main import parse
from clozeline.options import Command
from model.configs import (
    EvaluateConfig,
    FinetuneConfig,
    HuggingFaceExportConfig,
    ImportConfig,
    PretrainConfig,
)
from model.explaining.config import ExplainConfig
from model.planning import PlanConfig
from model.tasks.tables import Columns
from model.tasks.vectors import VectorConfig
from model.training.config import ExecutionConfig, RecoveryConfig, UpdateConfig
from pipeline.configs import InspectConfig, PreprocessConfig, VocabularyConfig
from pipeline.storage.cache import CacheConfig
from serving.configs import ExportConfig, QueryConfig, ServeConfig

PARTS: dict[str, type] = {
    "updates": UpdateConfig,
    "execution": ExecutionConfig,
    "recovery": RecoveryConfig,
    "columns": Columns,
    "caching": CacheConfig,
    "vectors": VectorConfig,
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


CONFIGS = {
    "evaluate": EvaluateConfig,
    "explain": ExplainConfig,
    "export": ExportConfig,
    "export-hf": HuggingFaceExportConfig,
    "finetune": FinetuneConfig,
    "import": ImportConfig,
    "inspect": InspectConfig,
    "plan": PlanConfig,
    "preprocess": PreprocessConfig,
    "pretrain": PretrainConfig,
    "query": QueryConfig,
    "serve": ServeConfig,
    "vocab": VocabularyConfig,
}
OTHERS = {
    "evaluate": {"worst"},  # None in the config: without labels, no worst answers are requested
    # The task is a choice among the kinds, and the config takes any of the table. To normalize is a
    # switch, and None in the config: as the initial model.
    "finetune": {"task", "normalize"},
}
"""Options with another default or type than the field."""

OF_THE_COMMAND = {
    "explain": {"output"},  # a file that the command writes
    "plan": {"recipe"},  # values of other options
    "serve": {"frozen_weights"},  # an environment variable
}
"""Options that are no field of the config."""


def plain(hint: Any) -> Any:
    """Return a type; a union of literals as one literal, as tyro takes it."""
    parts = get_args(hint)
    if parts and all(get_origin(part) is Literal for part in parts):
        return Literal[tuple(value for part in parts for value in get_args(part))]
    return hint


def declared(config: type) -> dict[str, tuple[Any, Any]]:
    """Return the type and the default of each field of a config and of its parts."""
    hints = get_type_hints(config)
    found: dict[str, tuple[Any, Any]] = {}
    for field in dataclasses.fields(config):
        if field.name not in PARTS:
            found[field.name] = plain(hints[field.name]), field.default
            continue
        part = field.default
        if part is dataclasses.MISSING:
            assert field.default_factory is not dataclasses.MISSING
            part = field.default_factory()
        of_part = get_type_hints(type(part))
        found |= {name: (plain(of_part[name]), getattr(part, name)) for name in of_part}
    return found


@pytest.mark.parametrize("command", sorted(CONFIGS))
def test_fields_have_options_and_no_option_is_ignored(command: str) -> None:
    options = {field.name for field in dataclasses.fields(options_of(command))}
    of_the_command = {field.name for field in dataclasses.fields(Command)}
    of_the_command |= OF_THE_COMMAND.get(command, set())
    assert options - of_the_command == declared(CONFIGS[command]).keys()


@pytest.mark.parametrize("command", sorted(CONFIGS))
def test_an_option_has_the_type_and_the_default_of_its_field(command: str) -> None:
    """Options repeat the fields, because their help texts name flags; a config knows none."""
    options = options_of(command)
    expected = declared(CONFIGS[command])
    same = expected.keys() - OTHERS.get(command, set())
    found = declared(options)
    assert {name: found[name] for name in same} == {name: expected[name] for name in same}


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


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_commands_that_copy_remote_files_take_the_cache(command: str) -> None:
    copies = "caching" in {f.name for f in dataclasses.fields(CONFIGS.get(command, CacheConfig))}
    assert issubclass(options_of(command), CachingCommand) == copies


def test_the_cache_arrives_in_the_config() -> None:
    options: Any = parse("serve", ["--models", "m", "--cache", "c", "--cache-gb", "7"])[0]
    assert options.configuration().caching == CacheConfig(cache=Path("c"), cache_gb=7.0)
