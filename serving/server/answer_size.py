"""Refusing requests whose outputs would fill the memory, before they run where shapes tell.

A signature leaves axes of its outputs open, so their sizes are known after a run only. Before it,
an open axis counts as long as the longest axis of the inputs, which is what it is at most in models
of sequences. What texts become depends on the tokenizer: their outputs are not estimated.
"""

import math

import numpy as np
import tensorflow as tf

from serving.server.signature_spec import Arrays, Signature, TensorInfo
from serving.server.status import invalid

_ITEM_BYTES = {tf.string: 24}  # TensorFlow's string object
# The axis may be that of a shorter input: 512 ids, of which 20 are predicted as one of 250,000
# pieces, count as 512 MB. Nothing beyond this many times the limit is tried.
_MOST_TIMES_OVER = 8


def check_before_run(signature: Signature, inputs: Arrays, max_bytes: int) -> None:
    """Refuse inputs whose outputs take more than the limit as far as shapes tell.

    Args:
        signature: what is to run.
        inputs: arrays that fit it.
        max_bytes: limit for the outputs together.

    Raises:
        ServingError: INVALID_ARGUMENT, outputs of fixed size are larger than the limit; or those of
            numbers could be many times as large.
    """
    rows = max((len(array) for array in inputs.values() if array.ndim), default=1)
    infos = [info for info in signature.outputs.values() if info.shape is not None]
    check_answer(sum(_size_bytes(info, rows, 0) for info in infos), max_bytes)
    if all(array.dtype != np.object_ for array in inputs.values()):
        length = max((max(array.shape[1:], default=1) for array in inputs.values()), default=1)
        most_bytes = sum(_size_bytes(info, 1, length) for info in infos)
        check_answer(most_bytes, max_bytes * _MOST_TIMES_OVER)


def check_answer(size_bytes: int, max_bytes: int) -> None:
    """Refuse outputs that are too large.

    Raises:
        ServingError: INVALID_ARGUMENT, they are.
    """
    if size_bytes > max_bytes:
        raise invalid(
            f"The answer takes {size_bytes} bytes, and {max_bytes} are allowed; send fewer rows or "
            "shorter inputs"
        )


def _size_bytes(info: TensorInfo, rows: int, length: int) -> int:
    """Return an output's size if its open axes have a length, the first of them `rows`."""
    first, *inner = info.shape or (1,)
    sizes = [rows if first is None else first]
    sizes += [length if size is None else size for size in inner]
    return math.prod(sizes) * _ITEM_BYTES.get(info.dtype, int(info.dtype.size or 0))
