"""The clock of a training: what counts, and the rates that follow."""

import pytest

from model.training.throughput import Throughput


def test_the_first_call_which_compiles_does_not_count() -> None:
    clock = Throughput(batch_size=8)
    clock.add(steps=1, positions=500.0, secs=30.0)
    assert (clock.steps, clock.positions, clock.secs) == (0, 0.0, 0.0)
    clock.add(steps=6, positions=3000.0, secs=1.5)
    clock.add(steps=4, positions=1000.0, secs=0.5)
    assert clock.steps_per_sec == 5.0  # 10 updates in 2 seconds
    assert clock.tokens_per_sec == 2000.0
    assert clock.examples_per_sec == 40.0
    assert clock.mean_length == 50.0  # 4,000 positions in 80 examples


def test_rates_before_anything_is_counted_are_0() -> None:
    clock = Throughput(batch_size=8)
    assert clock.steps_per_sec == clock.tokens_per_sec == clock.examples_per_sec == 0.0
    assert clock.mean_length == 0.0


@pytest.mark.parametrize(("secs", "steps"), [(1.0, 5.0), (0.1, 0.5), (3.0, 15.0)])
def test_steps_within_a_time(secs: float, steps: float) -> None:
    clock = Throughput(batch_size=2)
    assert clock.steps_within(secs) == 1
    clock.add(1, 1.0, 60.0)
    assert clock.steps_within(secs) == 1
    clock.add(10, 1.0, 2.0)
    assert clock.steps_within(secs) == steps
