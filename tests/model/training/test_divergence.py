"""Divergence: when a loss counts as diverging, and how often a training may roll back."""

import math

import pytest

from model.training.config import RecoveryConfig
from model.training.divergence import MAX_ROLL_BACKS, DivergenceGuard
from pipeline.errors import InputError


def guard(recent_loss: float = 0.0, *, ratio: float = 3.0, skip: bool = False) -> DivergenceGuard:
    config = RecoveryConfig(on_blow_up="skip" if skip else "stop", blow_up_ratio=ratio)
    return DivergenceGuard(config, recent_loss)


def diverged(of: DivergenceGuard, loss: float) -> bool:
    return of.diverged({"task_loss": loss, "gradient_norm": 1.0}, loss)


@pytest.mark.parametrize(("loss", "expected"), [(2.0, False), (6.0, False), (6.1, True)])
def test_a_loss_far_above_the_moving_average(loss: float, expected: bool) -> None:
    assert diverged(guard(2.0), loss) is expected


@pytest.mark.parametrize(
    ("recent", "loss", "expected"),
    [
        (0.002, 0.03, False),  # one of 320 masked words is missed by 10 nats
        (0.002, 0.59, False),
        (0.002, math.log(2), True),  # guesses which sentence is the next one, after knowing it
        (0.002, 6.4, True),  # the entropy of the words of a corpus
        (0.3, 0.89, False),
        (0.3, 0.91, True),
    ],
)
def test_a_loss_near_0_may_multiply_up_to_that_of_a_guess(
    recent: float, loss: float, expected: bool
) -> None:
    assert diverged(guard(recent), loss) is expected


def test_the_first_loss_is_its_own_average() -> None:
    fresh = guard()
    assert not diverged(fresh, 700.0)
    assert fresh.recent_loss == pytest.approx(700.0)


def test_the_average_moves_by_a_tenth_and_not_with_a_loss_that_diverges() -> None:
    watched = guard(2.0)
    assert not diverged(watched, 4.0)
    assert watched.recent_loss == pytest.approx(2.2)
    assert diverged(watched, 7.0)
    assert watched.recent_loss == pytest.approx(2.2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["task_loss", "gradient_norm"])
def test_a_non_finite_sum_is_a_divergence(name: str, value: float) -> None:
    sums = {"task_loss": 2.0, "gradient_norm": 1.0} | {name: value}
    assert guard(2.0, ratio=math.inf).diverged(sums, 2.0)


def test_with_an_infinite_ratio_only_what_is_not_finite_diverges() -> None:
    assert not diverged(guard(1e-9, ratio=math.inf), 1e30)


def test_stop_refuses_every_roll_back() -> None:
    with pytest.raises(InputError, match=r"diverged before step 1,200 .*step 1,000.*than 0.0005"):
        guard().roll_back(1200, 1000, 5e-4)


def test_skip_limits_the_roll_backs_to_one_checkpoint() -> None:
    watched = guard(skip=True)
    for _ in range(MAX_ROLL_BACKS):
        assert "before step 30 (last checkpoint: step 20)" in watched.roll_back(30, 20, 0.1)
    with pytest.raises(InputError, match=f"for the {MAX_ROLL_BACKS + 1}th time"):
        watched.roll_back(30, 20, 0.1)
    watched.saved()
    assert watched.roll_back(50, 40, 0.1)
