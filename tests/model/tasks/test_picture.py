"""Which pictures an evaluation has, and what they show."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from model.tasks.evaluation import Evaluation
from model.tasks.picture import MOST_CELLS, draw_evaluation
from model.tasks.task_kind import Task


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that are saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **more: Any) -> None:
        figures.append(figure)
        save(figure, *args, **more)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_a_confusion_matrix_has_true_classes_as_rows(tmp_path: Path, drawn: list[Figure]) -> None:
    counts = np.array([[1000, 3], [0, 0]])
    task = Task("single", ("no", "yes"), takes_pairs=False)
    assert draw_evaluation(tmp_path / "p.png", Evaluation({}, [], confusion=counts), task, "dev")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    axes = drawn[0].axes[0]
    assert axes.get_title() == "dev"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("answered", "expected")
    shares = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shares, [[1000 / 1003, 3 / 1003], [0, 0]])
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "1,000", (1, 0): "3",
    }  # fmt: skip


def test_a_matrix_of_many_classes_has_no_numbers(tmp_path: Path, drawn: list[Figure]) -> None:
    labels = tuple(map(str, range(MOST_CELLS + 1)))
    counts = np.eye(len(labels), dtype=int)
    task = Task("single", labels, takes_pairs=False)
    assert draw_evaluation(tmp_path / "p.png", Evaluation({}, [], confusion=counts), task, "")
    assert not drawn[0].axes[0].texts


def test_numbers_are_drawn_against_what_was_expected(tmp_path: Path, drawn: list[Figure]) -> None:
    answers = [{"expected": 1.0, "answer": 1.5}, {"expected": 4.0, "answer": 3.0}]
    task = Task("regression", (), takes_pairs=False)
    evaluation = Evaluation({}, answers, are_numbers=True)
    assert draw_evaluation(tmp_path / "p.png", evaluation, task, "")
    points = drawn[0].axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(np.asarray(points), [[1, 1.5], [4, 3]])


def test_spans_have_no_picture(tmp_path: Path) -> None:
    task = Task("span", (), takes_pairs=True)
    assert not draw_evaluation(tmp_path / "p.png", Evaluation({}, []), task, "")
    assert not (tmp_path / "p.png").exists()
