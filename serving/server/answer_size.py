"""Refuse requests whose outputs are too large, before the run if shapes allow an estimate.

Output shapes have unknown axes, so exact sizes are known only after the run. For the estimate, an
unknown axis is as long as the longest axis of the inputs, the upper bound in sequence models.
Outputs of text inputs depend on the tokenizer and are not estimated.
"""

import math

import numpy as np
import tensorflow as tf

from pipeline.schema import Arrays
from serving.server.signature_spec import ServableSignature, TensorInfo
from serving.server.status import invalid

_ITEM_BYTES = {tf.string: 24}  # TensorFlow's string object
# The estimate may be too high, since the axis may be that of a shorter input: 512 ids with 20
# predictions over 250,000 pieces count as 512 MB. So only requests whose estimate exceeds the limit
# by this factor are refused before the run.
_MOST_TIMES_OVER = 8


def check_before_run(signature: ServableSignature, inputs: Arrays, max_bytes: int) -> None:
    """Refuse inputs if their outputs are estimated to exceed the limit.

    Args:
        signature: the signature to run.
        inputs: arrays that match its inputs.
        max_bytes: limit for all outputs together.

    Raises:
        ServingError: INVALID_ARGUMENT: outputs of known size exceed the limit, or the estimate for
            numeric inputs exceeds `_MOST_TIMES_OVER` times the limit.
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
        ServingError: INVALID_ARGUMENT: the outputs exceed the limit.
    """
    if size_bytes > max_bytes:
        raise invalid(
            f"The answer takes {size_bytes} bytes, and {max_bytes} are allowed; send fewer rows or "
            "shorter inputs"
        )


def _size_bytes(info: TensorInfo, rows: int, length: int) -> int:
    """Return an output's size if its unknown axes have this length, and its first axis `rows`."""
    first, *inner = info.shape or (1,)
    sizes = [rows if first is None else first]
    sizes += [length if size is None else size for size in inner]
    return math.prod(sizes) * _ITEM_BYTES.get(info.dtype, int(info.dtype.size or 0))
