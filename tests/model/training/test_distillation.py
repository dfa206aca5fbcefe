"""The losses of a student, and their gradients: those of PyTorch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from model.training.distillation import relation_loss, soft_cross_entropy

GOLDEN = dict(np.load(Path(__file__).parents[2] / "golden" / "distillation.npz"))


def value_and_gradient(loss: Callable[[Any], Any], student: np.ndarray) -> tuple[Any, Any]:
    variable = tf.Variable(student)
    with tf.GradientTape() as tape:
        value = loss(variable)
    return value.numpy(), tape.gradient(value, variable).numpy()


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_soft_targets_against_pytorch(temperature: float) -> None:
    value, gradient = value_and_gradient(
        lambda student: soft_cross_entropy(
            student, GOLDEN["teacher"], GOLDEN["weights"], temperature
        ),
        GOLDEN["student"],
    )
    np.testing.assert_allclose(value, GOLDEN[f"soft {temperature}"], rtol=1e-5)
    np.testing.assert_allclose(gradient, GOLDEN[f"soft gradient {temperature}"], atol=1e-5)


@pytest.mark.parametrize("heads", [1, 3])
def test_relations_against_pytorch(heads: int) -> None:
    lengths = GOLDEN["lengths"]
    mask = (np.arange(6) < lengths[:, np.newaxis]).astype(np.int32)
    value, gradient = value_and_gradient(
        lambda student: relation_loss(student, GOLDEN["teacher_vectors"], mask, heads),
        GOLDEN["student_vectors"],
    )
    np.testing.assert_allclose(value, GOLDEN[f"relation {heads}"], rtol=1e-5)
    np.testing.assert_allclose(gradient, GOLDEN[f"relation gradient {heads}"], atol=1e-5)


def test_a_student_equal_to_its_teacher_has_loss_zero() -> None:
    teacher = tf.constant(GOLDEN["teacher"])
    assert soft_cross_entropy(teacher, teacher, GOLDEN["weights"], 2.0).numpy() == 0
    vectors = tf.constant(GOLDEN["teacher_vectors"])
    assert relation_loss(vectors, vectors, np.ones((3, 6), np.int32), 7).numpy() == 0
