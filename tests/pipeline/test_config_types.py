"""Configurations from Python: values of other types are refused in one line."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from pipeline.config_types import check_types
from pipeline.configs import PreprocessConfig, VocabularyConfig
from pipeline.errors import InputError, check_range


@dataclass(frozen=True, kw_only=True)
class Config:
    size: int = 1
    rate: float | None = 0.5
    name: str = "a"
    is_on: bool = False
    kind: Literal["cut", "carry"] = "cut"
    depth: Literal["auto"] | int = "auto"
    folder: Path = Path("a")
    words: tuple[str, ...] = ()
    lengths: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        check_types(self)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": "5"}, "`size` '5': expected a whole number"),
        ({"size": 5.0}, "`size` 5.0: expected a whole number"),
        ({"size": True}, "`size` True: expected a whole number"),
        ({"size": None}, "`size` None: expected a whole number"),
        ({"rate": "0.5"}, "`rate` '0.5': expected a number or None"),
        ({"rate": 1j}, "`rate` 1j: expected a number or None"),
        ({"name": Path("a")}, r"`name` PosixPath\('a'\): expected a text"),
        ({"name": b"a"}, "`name` b'a': expected a text"),
        ({"is_on": 1}, "`is_on` 1: expected True or False"),
        ({"is_on": np.bool_(True)}, "expected True or False"),
        ({"kind": "other"}, "`kind` 'other': expected one of cut, carry"),
        ({"kind": ["cut"]}, "expected one of cut, carry"),
        ({"depth": "deep"}, "`depth` 'deep': expected one of auto or a whole number"),
        ({"folder": "a"}, "`folder` 'a': expected a path"),
        ({"words": "a.txt"}, "`words` 'a.txt': expected a tuple"),
        ({"words": ("a", 1)}, r"`words` \('a', 1\): expected a text"),
        ({"lengths": 5}, "`lengths` 5: expected a tuple"),
        ({"words": {"a"}}, "expected a tuple"),
    ],
)
def test_other_types_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Config(**values)


def test_numbers_of_numpy_and_lists_become_python_s() -> None:
    config = Config(
        size=np.int64(3),  # type: ignore[arg-type]
        rate=np.float32(0.25),  # type: ignore[arg-type]
        lengths=[np.int32(4), 5],  # type: ignore[arg-type]
    )
    assert config == Config(size=3, rate=0.25, lengths=(4, 5))
    assert (type(config.size), type(config.rate), type(config.lengths[0])) == (int, float, int)
    of_tuple = Config(lengths=(np.int32(4), 5))  # type: ignore[arg-type]
    assert [*map(type, of_tuple.lengths)] == [int, int]
    assert Config(rate=1, depth=2) == Config(rate=1.0, depth=2)


@pytest.mark.parametrize(
    "values",
    [
        {"input_format": "csv"},
        {"pairing": "none "},
        {"overflow": "drop"},
        {"masks": "random"},
        {"masking": "words"},
        {"compression": "zip"},
        {"deduplicate": True},
        {"redact": ("name",)},
        {"output": Path("d")},
        {"max_seq_length": 128},
        {"input": "a.txt"},
        {"seed": 10**30},
        {"shards": 0.5},
    ],
)
def test_what_the_command_line_refuses_is_refused_in_python(values: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"input": ("a",), "vocab": Path("v"), "output": "d"}
    PreprocessConfig(**usual)
    with pytest.raises(InputError, match=f"^`{next(iter(values))}` "):
        PreprocessConfig(**usual | values)


def test_a_subclass_checks_its_own_fields() -> None:
    with pytest.raises(InputError, match=r"`output` 'v.txt': expected a path"):
        VocabularyConfig(input=("a",), output="v.txt")  # type: ignore[arg-type]


def test_numbers_have_an_end() -> None:
    for large in (2**53 + 1, 10**400, math.inf, 1e300):
        with pytest.raises(InputError, match=r"`steps` .*: must be at most 9,007,199,254,740,992"):
            check_range("steps", large, 1)
    check_range("steps", 2**53, 1)
    check_range("ratio", math.inf, 1, math.inf)
