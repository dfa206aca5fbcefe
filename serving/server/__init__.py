"""The embedded model server: TensorFlow Serving's REST and gRPC API, from Python.

It stands in where `tensorflow_model_server` is not installed. What it answers is held to recorded
conversations with TensorFlow Serving 2.20; the README lists where it differs on purpose.
"""
