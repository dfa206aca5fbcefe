"""Run a signature on named arrays: the core that REST, gRPC and warm-up share."""

import threading

import numpy as np
import tensorflow as tf

from pipeline.schema import Arrays
from serving.server.answer_size import check_answer, check_before_run
from serving.server.batching import Batcher, RunNow
from serving.server.batching_options import BatchingOptions
from serving.server.callers import current_caller
from serving.server.limits import CHUNK_VALUES, Limits
from serving.server.metrics import Metrics
from serving.server.signature_spec import ServableSignature, check_inputs, size_bytes
from serving.server.status import from_tensorflow


class Runner:
    """Runs signatures with limited concurrency, and with batching if it is enabled."""

    def __init__(
        self,
        limits: Limits,
        batching: BatchingOptions | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.max_input_bytes = limits.max_message_bytes
        self.max_answer_bytes = limits.max_answer_bytes
        self._places = threading.BoundedSemaphore(limits.max_concurrent_runs)
        self._batcher = None
        if batching:
            most = limits.max_answer_bytes
            self._batcher = Batcher(self._run_now, batching, metrics or Metrics(), most)

    def close(self) -> None:
        """End the batching threads after their queued work."""
        if self._batcher:
            self._batcher.close()

    def most_rows(self, signature: ServableSignature) -> int | None:
        """Return the largest number of rows of a request; None = no limit."""
        return self._batcher.most_rows if self._batcher and signature.can_batch else None

    def run(self, signature: ServableSignature, inputs: Arrays) -> Arrays:
        """Return the outputs by name; strings are object arrays of bytes.

        Raises:
            ServingError: the inputs do not match the signature, the outputs are too large, the
                graph failed, the batching queue is full, or the client disconnected before the run.
        """
        check_inputs(signature, inputs)
        check_before_run(signature, inputs, self.max_answer_bytes)
        run: RunNow = self._run_now
        if self._batcher and signature.can_batch:
            rows = {len(array) for array in inputs.values()}
            if len(rows) == 1 and rows != {0}:
                run = self._batcher.run
        outputs = run(signature, inputs)
        check_answer(size_bytes(outputs), self.max_answer_bytes)
        current_caller().check()  # do not format a response for nobody: it may take long
        return outputs

    def _run_now(self, signature: ServableSignature, arrays: Arrays) -> Arrays:
        try:
            with self._places:
                current_caller().check()
                tensors = {
                    name: _tensor(value, signature.inputs[name].dtype)
                    for name, value in arrays.items()
                }
                outputs = signature.function(**tensors)
                # Numeric arrays are read-only views of TensorFlow's memory, not copies.
                return {name: np.asarray(outputs[name]) for name in signature.outputs}
        except (tf.errors.OpError, TypeError, ValueError) as error:
            raise from_tensorflow(error) from error


def _tensor(array: np.ndarray, dtype: tf.DType) -> tf.Tensor:
    """Copy an array to a tensor; many strings in several calls, see `CHUNK_VALUES`."""
    if array.dtype != np.object_ or array.size <= CHUNK_VALUES:
        return tf.convert_to_tensor(array, dtype)
    flat = array.ravel()
    starts = range(0, flat.size, CHUNK_VALUES)
    parts = [tf.convert_to_tensor(flat[start : start + CHUNK_VALUES], dtype) for start in starts]
    return tf.reshape(tf.concat(parts, axis=0), array.shape)
