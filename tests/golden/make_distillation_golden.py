# /// script
# requires-python = "==3.11.*"
# dependencies = ["numpy==2.4.6", "torch==2.15.0"]
# ///
"""Write `distillation.npz`: PyTorch's values and gradients of the losses of a student.

The project's tests need only the file:

    uv run tests/golden/make_distillation_golden.py
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

TEMPERATURES = (1.0, 2.5)
HEADS = (1, 3)


def soft(
    student: torch.Tensor, teacher: torch.Tensor, weights: torch.Tensor, t: float
) -> torch.Tensor:
    """Return the weighted sum of T² KL, as tutorials of PyTorch write it."""
    both = functional.log_softmax(student / t, -1), functional.log_softmax(teacher / t, -1)
    rows = functional.kl_div(*both, reduction="none", log_target=True).sum(-1)
    return t * t * (rows * weights).sum()


def relations(vectors: torch.Tensor, heads: int, length: int) -> torch.Tensor:
    """Return the relations of the first vectors of one example: [heads, length, length]."""
    parts = torch.stack(vectors[:length].chunk(heads, dim=-1))  # consecutive numbers are a head
    return (parts @ parts.transpose(1, 2)) / parts.shape[-1] ** 0.5


def relation(
    student: torch.Tensor, teacher: torch.Tensor, lengths: list[int], heads: int
) -> torch.Tensor:
    """Return the loss, example by example, without padding."""
    total = torch.zeros((), dtype=torch.float64)
    for row, length in enumerate(lengths):
        found = functional.log_softmax(relations(student[row], heads, length), -1)
        expected = functional.softmax(relations(teacher[row], heads, length), -1)
        total = total + functional.kl_div(found, expected, reduction="sum") / heads
    return total


def main() -> None:
    """Write the file."""
    rng = np.random.default_rng(3)
    golden = {"made_with": np.array([f"torch {version('torch')}"])}
    arrays = {
        "student": rng.normal(size=(5, 7, 4)) * 2, "teacher": rng.normal(size=(5, 7, 4)) * 2,
        "weights": rng.uniform(size=(5, 7)), "student_vectors": rng.normal(size=(3, 6, 12)),
        "teacher_vectors": rng.normal(size=(3, 6, 21)),
    }  # fmt: skip
    lengths = [6, 2, 4]
    golden |= {name: values.astype(np.float32) for name, values in arrays.items()}
    golden["lengths"] = np.array(lengths)
    given = {
        name: torch.tensor(values).double() for name, values in golden.items() if name in arrays
    }
    for t in TEMPERATURES:
        student = given["student"].clone().requires_grad_()
        loss = soft(student, given["teacher"], given["weights"], t)
        loss.backward()
        golden |= {f"soft {t}": loss.detach().numpy(), f"soft gradient {t}": student.grad.numpy()}
    for heads in HEADS:
        student = given["student_vectors"].clone().requires_grad_()
        loss = relation(student, given["teacher_vectors"], lengths, heads)
        loss.backward()
        golden |= {f"relation {heads}": loss.detach().numpy()}
        golden |= {f"relation gradient {heads}": student.grad.numpy()}
    np.savez_compressed(Path(__file__).parent / "distillation.npz", **golden)


if __name__ == "__main__":
    main()
