"""What a message of the engine becomes before the front door prints it."""

import dataclasses
import logging
from pathlib import Path
from typing import Annotated, Any

import pytest
import tyro

from clozeline.commands import COMMANDS, options_of, spelled
from clozeline.main import main
from clozeline.options import Command, as_flags
from clozeline.show.terminal import printed_notes
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


def test_every_command_spells_the_options_of_all() -> None:
    for command in COMMANDS:
        for other in COMMANDS:
            for field in dataclasses.fields(options_of(other)):
                if field.name != "given":
                    assert "`" not in spelled(f"`{field.name}`", command)


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


def test_what_the_engine_logs_is_printed_with_flags(capsys: pytest.CaptureFixture[str]) -> None:
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
