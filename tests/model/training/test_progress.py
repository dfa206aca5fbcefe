"""What the progress bar of a training shows."""

import re
from types import SimpleNamespace

import pytest

from model.training import progress
from model.training.progress import Progress, status_line, time_left


def test_the_status_line_shows_the_metrics() -> None:
    values = {
        "loss": 6.2104, "masked_lm_accuracy": 0.12345, "next_sentence_accuracy": 0.5,
        "learning_rate": 0.00012, "data_wait_rate": 0.05,
    }  # fmt: skip
    assert status_line(values) == "loss 6.210 · masked 12.3% · next 50.0% · rate 1.2e-04"
    waiting = status_line({"loss": 1, "learning_rate": 1, "data_wait_rate": 0.51})
    assert waiting == "loss 1.000 · waiting for data 51% · rate 1.0e+00"


@pytest.mark.parametrize(
    ("secs", "shown"), [(0, "0:00:00"), (59.6, "0:01:00"), (3723, "1:02:03"), (90061, "25:01:01")]
)
def test_time_left(secs: float, shown: str) -> None:
    assert time_left(secs) == shown


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which a test changes."""
    time = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: time[0]))
    return time


def test_without_a_terminal_progress_is_printed_at_intervals_and_at_the_end(
    capsys: pytest.CaptureFixture[str], now: list[float]
) -> None:
    values = {"loss": 2.5, "learning_rate": 0.001, "tokens_per_sec": 12345.6}
    shown = Progress(steps=50, first_step=10, batch_size=8)
    for step, secs in [(15, 104), (20, 116), (25, 118), (50, 119)]:
        now[0] = secs
        shown.update(step, values)
    lines = capsys.readouterr().err.splitlines()
    assert [re.findall(r"step (\d+)", line) for line in lines] == [["20"], ["50"]]
    # 5 steps took 12 s since the first update; 30 steps are left.
    assert lines[0].endswith("12,346 tokens/s · 0:01:12 left (of 50 steps)")


def test_compilation_does_not_count_as_training(
    capsys: pytest.CaptureFixture[str], now: list[float]
) -> None:
    values = {"loss": 2.5, "learning_rate": 0.001, "tokens_per_sec": 0.0}
    shown = Progress(steps=1000, first_step=0, batch_size=8)
    now[0] = 160.0  # a minute of compilation and one step
    shown.update(1, values)
    now[0] = 180.0
    shown.update(101, values | {"tokens_per_sec": 640.0})
    assert capsys.readouterr().err.splitlines() == [
        "step 1 · loss 2.500 · rate 1.0e-03 (of 1,000 steps)",
        # 100 steps took 20 s; 899 are left.
        "step 101 · loss 2.500 · rate 1.0e-03 · 640 tokens/s · 0:03:00 left (of 1,000 steps)",
    ]
