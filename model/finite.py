"""Refuse a model whose outputs are not finite numbers: no metric and no picture of it is right."""

from collections.abc import Iterable

import numpy as np

from pipeline.errors import InputError


class NotFiniteError(InputError):
    """An output of a model is NaN or infinite."""


def check_finite(model: object, outputs: Iterable[np.ndarray | float]) -> None:
    """Check that the outputs of a model are finite.

    Args:
        model: which model it is, for the message: the path of its run, for example.
        outputs: float arrays of any shapes, without padding; or numbers.

    Raises:
        NotFiniteError: an output is NaN or infinite.
    """
    if not all(np.isfinite(values).all() for values in outputs):
        raise NotFiniteError(
            f"{model}: its outputs are NaN or infinite, because its weights diverged in a "
            "training; train it again with a lower `learning_rate`, or give another checkpoint"
        )
