"""Options and constants of an export; no TensorFlow is imported here."""

from typing import Literal

from pipeline.cores import INTRAOP_THREADS, usable_cores

ServingPrecision = Literal["float32", "bfloat16", "int8"]
"""Dtype of the stored weights and of matrix multiplications; outputs are always float32."""

TOLERANCES: dict[ServingPrecision, float] = {"float32": 1e-5, "bfloat16": 0.1, "int8": 0.25}
"""Maximum difference of a served output from the Python model's in float32, relative to the largest
number in the output, or to 1 if that is larger. bfloat16 has 8 significant bits: each operation has
a relative rounding error of up to 0.004."""

MAX_WINDOWS = 64
"""Default of the most windows of a passage, or of a text whose words are tagged. Windows of 384
positions with a stride of 128 pieces read about 6,000 words of English."""

TENSOR_PARALLEL = 2
"""Default number of parts in which an exported model computes each of its layers. A server that has
more cores divides the operations of each part among them."""

ServerVersion = Literal["2.20"]
"""Supported releases of TensorFlow Serving; `serving/export/op_lists` has the ops of each."""

FROZEN_WEIGHTS = {"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1"}
"""Environment variables, to be set before TensorFlow is imported: the CPU kernels assume that
weights do not change, and cache a copy of them in oneDNN's layout."""

CALLER_THREAD = {"TF_ONEDNN_THREADPOOL_USE_CALLER_THREAD": "1"}
"""Environment variables, to be set before TensorFlow is imported: the thread that starts a oneDNN
operation computes a part of it. By default it hands all parts to other threads and sleeps, which
costs one thread switch more for each of some hundred operations of a short text."""


def shared_cores() -> dict[str, str]:
    """Return environment variables, to be set before TensorFlow is imported: threads of a part.

    The parts of a layer run at the same time, so each has its share of the cores. With all of them,
    as by default, the parts' operations wait for each other's threads.
    """
    return {INTRAOP_THREADS: str(max(1, usable_cores() // TENSOR_PARALLEL))}


SYSTEM_ALLOCATOR = {"TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1"}
"""Environment variables, to be set before TensorFlow is imported: the CPU kernels allocate memory
with malloc. Their own pool never returns the memory of the largest requests: for a model of 90 MB,
160 MB per concurrent text of 512 positions."""

QUIET_GRPC = {"GRPC_VERBOSITY": "NONE"}
"""Environment variables, to be set before gRPC is imported: no log lines by gRPC itself. It logs
every refused call, so that clients could fill the disk."""
