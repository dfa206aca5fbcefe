"""The embedded model server: TensorFlow Serving's REST and gRPC API, from Python.

It replaces `tensorflow_model_server` where that is not installed. Its responses are tested against
exchanges recorded from TensorFlow Serving 2.20; intended differences are documented.
"""
