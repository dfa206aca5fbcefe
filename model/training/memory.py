"""Memory that a computation needs and does not get, as a one-line error."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from pipeline.errors import JobError, reason


@contextmanager
def shortage_named(remedy: str) -> Iterator[None]:
    """Convert errors of TensorFlow and NumPy about a lack of memory into a `JobError`.

    Args:
        remedy: advice at the end of the message, with fields in backquotes.
    """
    try:
        yield
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        # TensorFlow's text begins with the stack of the graph, and ends with hints for its API.
        said = re.search(r"(OOM|Out of memory)\b.*", str(error), re.IGNORECASE)
        raise JobError(f"out of memory: {said[0] if said else reason(error)}; {remedy}") from error
