"""The embedded model server: TensorFlow Serving's REST and gRPC API, from Python.

It stands in where `tensorflow_model_server` is not installed. What it answers is held to recorded
conversations with TensorFlow Serving 2.20. It differs on purpose in two places:

- A tensor of lower rank than the signature says (`{"inputs": "a"}` for a [None] string) is refused
  with INVALID_ARGUMENT before the graph runs. The real server passes it on, and TF Text's kernels
  end the process.
- Nothing is batched across requests, so an empty batch is run like any other. With batching on, the
  real server lets it wait until the next request.
"""
