"""The best checkpoint, across two starts of a run, and as several workers agree on it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tensorflow as tf

from model.training.best_keeper import BestKeeper
from model.training.checkpoints import Best, Checkpoints
from model.training.evaluation_schedule import EvaluationSchedule
from model.training.workers import Workers
from pipeline.errors import InputError

F1 = EvaluationSchedule(measure="f1", higher_is_better=True, patience=2)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    made = Checkpoints(tmp_path / "checkpoints")
    for step in (10, 20, 30):
        made.save(step, {"step": tf.Variable(step)})
    made.wait()
    return made


def keeper(
    checkpoints: Checkpoints,
    lines: Any = (),
    evaluations: EvaluationSchedule = F1,
    chief: Any = None,
) -> BestKeeper:
    workers: Any = chief or Workers(tf.distribute.get_strategy())
    return BestKeeper(checkpoints.directory.parent, evaluations, checkpoints, workers, lines)


def test_the_best_is_marked_and_patience_counts_from_it(checkpoints: Checkpoints) -> None:
    best = keeper(checkpoints)
    assert best.record(10, {"loss": 9.0, "f1": 0.5})
    best.mark(10, {"loss": 9.0, "f1": 0.5})
    assert checkpoints.best == Best(10, "f1", 0.5)
    assert not best.record(20, {"loss": 1.0, "f1": 0.4})
    assert not best.early_stopping.is_exhausted
    assert not best.record(30, {"loss": 1.0, "f1": 0.5})
    assert best.early_stopping.is_exhausted
    assert best.record(40, {"loss": 1.0, "f1": 0.6})
    assert not best.early_stopping.is_exhausted


def test_a_repetition_of_the_best_evaluation_is_the_best(checkpoints: Checkpoints) -> None:
    checkpoints.mark_best(10, "f1", 0.5)
    best = keeper(checkpoints)
    assert best.record(10, {"f1": 0.5})
    assert best.early_stopping.since_best == 0


def test_patience_continues_after_a_resume(checkpoints: Checkpoints) -> None:
    checkpoints.mark_best(10, "f1", 0.5)
    lines = [{"step": step, "split": "eval", "f1": 0.1} for step in (10, 20, 30)]
    second = keeper(checkpoints, lines)
    assert second.early_stopping.since_best == 2
    assert second.early_stopping.is_exhausted


def test_a_resumed_run_cannot_change_its_metric(
    checkpoints: Checkpoints,
) -> None:
    checkpoints.mark_best(10, "accuracy", 0.5)
    with pytest.raises(InputError, match=r"selected by accuracy, not f1; give `metric` accuracy"):
        keeper(checkpoints)


def test_all_workers_follow_the_verdict_of_the_chief(checkpoints: Checkpoints) -> None:
    """A worker without the log and with another value follows the chief."""
    checkpoints.mark_best(10, "f1", 0.5)
    said = iter([1.0, 1.0, 0.0])  # evaluations since the best one, is best, is not
    best = keeper(checkpoints, chief=SimpleNamespace(of_chief=lambda _: next(said)))
    assert best.early_stopping.since_best == 1
    assert best.record(20, {"f1": 0.1})
    assert not best.record(30, {"f1": 0.9})
