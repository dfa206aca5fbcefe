"""What may be chosen of an export, as plain data."""

from typing import Literal

ServingPrecision = Literal["float32", "bfloat16"]
"""What weights are stored and multiplied in; what is answered is float32 in any case."""

TOLERANCES: dict[ServingPrecision, float] = {"float32": 1e-5, "bfloat16": 0.1}
"""How far a served answer may be from the Python model's in float32, as a share of the largest
number in it, or of 1 where that is larger. bfloat16 has 8 bits of a number: 0.004 at each step."""

ServerVersion = Literal["2.20"]
"""Releases of TensorFlow Serving whose operations are known (`serving/export/op_lists`)."""

FROZEN_WEIGHTS = {"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1"}
"""What tells TensorFlow, before it is imported, that weights do not change: its CPU kernels keep
them, beside the weights, in the order that they multiply in."""

SYSTEM_ALLOCATOR = {"TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1"}
"""What tells TensorFlow, before it is imported, that its CPU kernels take memory from the C
library. Their own pool keeps what the largest requests needed: 160 MB for each 512 positions'
attention that ran at a time, of a model of 90 MB."""

QUIET_GRPC = {"GRPC_VERBOSITY": "NONE"}
"""Tells gRPC, before it is imported, not to write log lines of its own: it writes one for each call
that it refuses, so clients could fill the disk with them."""
