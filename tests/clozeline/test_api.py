"""The Python interface has the defaults of the flags, and its errors name fields."""

import dataclasses
from pathlib import Path

import pytest

from clozeline import api
from clozeline.commands import COMMANDS, options_of

CONFIGS = {
    "vocab": api.VocabularyConfig,
    "preprocess": api.PreprocessConfig,
    "inspect": api.InspectConfig,
    "export": api.ExportConfig,
    "serve": api.ServeConfig,
    "query": api.QueryConfig,
    "explain": api.ExplainConfig,
}


@pytest.mark.parametrize("command", CONFIGS)
def test_a_command_and_its_function_have_the_same_defaults(command: str) -> None:
    options = {field.name: field.default for field in dataclasses.fields(options_of(command))}
    for field in dataclasses.fields(CONFIGS[command]):
        assert options[field.name] == field.default, field.name
    assert command in COMMANDS


def test_everything_it_offers_is_there() -> None:
    assert {"make_vocabulary", "preprocess", "export", "serve", "query", "explain"} <= {
        *api.__all__
    }
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
