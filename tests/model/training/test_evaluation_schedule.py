"""Which evaluation is the best, and when patience runs out."""

import math

import pytest

from model.training.evaluation_schedule import EarlyStopping, EvaluationSchedule, evaluations_since


@pytest.mark.parametrize(
    ("higher_is_better", "value", "best", "expected"),
    [
        (True, 0.8, 0.7, True),
        (True, 0.7, 0.8, False),
        (True, 0.7, 0.7, False),  # the first of two that are as good stays
        (False, 0.7, 0.8, True),
        (False, 0.8, 0.7, False),
        (False, 0.7, 0.7, False),
        (True, -5.0, None, True),
        (False, math.nan, None, True),
        (False, 9.0, math.nan, True),
        (True, math.nan, 0.1, False),
        (False, math.nan, 0.1, False),
    ],
)
def test_is_new_best(
    higher_is_better: bool, value: float, best: float | None, expected: bool
) -> None:
    selection = EvaluationSchedule(measure="f1", higher_is_better=higher_is_better)
    assert selection.is_new_best(value, best) is expected


def test_patience_runs_out_after_consecutive_evaluations_without_improvement() -> None:
    stopping = EarlyStopping(patience=2)
    exhausted = []
    for is_best in (True, False, True, False, False):
        stopping.record(is_best=is_best)
        exhausted.append(stopping.is_exhausted)
    assert exhausted == [False, False, False, False, True]


def test_without_patience_it_never_stops() -> None:
    stopping = EarlyStopping(None, since_best=1000)
    stopping.record(is_best=False)
    assert not stopping.is_exhausted


def test_what_an_earlier_start_counted() -> None:
    assert EarlyStopping(3, since_best=3).is_exhausted
    assert not EarlyStopping(3, since_best=2).is_exhausted


LINES = [
    {"step": 10, "split": "eval"},
    {"step": 15, "split": "train"},
    {"step": 20, "split": "eval"},
    {"step": 30, "split": "train"},
    {"step": 30, "split": "eval"},
]


@pytest.mark.parametrize(("best_step", "count"), [(None, 0), (10, 2), (20, 1), (30, 0), (5, 3)])
def test_evaluations_since_the_best(best_step: int | None, count: int) -> None:
    assert evaluations_since(LINES, best_step) == count
